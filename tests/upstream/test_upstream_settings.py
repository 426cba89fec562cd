"""Wrong settings of upstream APIs and callbacks: each stops the start with one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from raincheck.composition.operations import make_operations
from raincheck.config.loading import load_settings
from raincheck.errors import ConfigurationError

HTTP = '[operations.x]\nkind = "http"\nmethod = "POST"\nurl = "https://api.example.com/jobs"\ndescription = "x"\n'
URL = '[server]\npublic_url = "https://tools.example.com"\n'
CALLBACK = f'{HTTP}completion = "callback"\n'
GOOD = {
    "status_url": '"/jobs/{$.id}"',
    "state": '"$.state"',
    "done": '["done"]',
    "failed": '["failed"]',
}


def poll(**keys: str) -> str:
    return f"{HTTP}[operations.x.poll]\n" + "".join(f"{key} = {value}\n" for key, value in {**GOOD, **keys}.items())


WRONG = {
    "status_url elsewhere": (poll(status_url='"//evil/{$.id}"'), "poll.status_url: it must begin with"),
    "status_url empty": (poll(status_url='""'), "'status_url' in [operations.x.poll]"),
    "status_url path": (poll(status_url='"/{$.[}"'), "poll.status_url: '$.[' is no JSON path (RFC 9535)"),
    "status_url name": (poll(status_url='"/{nobody}"'), "names no parameter by {nobody}"),
    "status_url brace": (poll(status_url='"/{"'), "a lone '{'"),
    "status_url variable": (poll(status_url='"/${NOT_THERE_AT_ALL}"'), "no variable NOT_THERE_AT_ALL"),
    "state": (poll(state='"state"'), "invalid value \"state\" for 'state' in [operations.x.poll]"),
    "state path": (poll(state='"$["'), "poll.state: '$[' is no JSON path (RFC 9535)"),
    "done": (poll(done="[]"), "invalid value (a list) for 'done' in [operations.x.poll]"),
    "failed": (poll(failed='"failed"'), "'failed' in [operations.x.poll]"),
    "running": (poll(running='["done"]'), "poll: 'done' stands twice in done, failed and running"),
    "result": (poll(result='"report"'), "'result' in [operations.x.poll]"),
    "result and result_url": (poll(result='"$"', result_url='"{$.x}"'), "'result' and 'result_url' exclude each other"),
    "result_url parameter": (poll(result_url='"/{topic}"'), "names no parameter by {topic}"),
    "error": (poll(error="1"), "'error' in [operations.x.poll]"),
    "progress": (poll(progress='"$..["'), "poll.progress:"),
    "progress_total": (poll(progress_total="0"), "'progress_total' in [operations.x.poll]"),
    "interval_seconds": (poll(interval_seconds="0"), "'interval_seconds' in [operations.x.poll]"),
    "intervals": (poll(interval_seconds="90"), "interval_seconds (90) is above max_interval_seconds (60)"),
    "max_interval_seconds": (poll(max_interval_seconds="1e9"), "'max_interval_seconds' in [operations.x.poll]"),
    "request_timeout": (poll(request_timeout_seconds="-1"), "'request_timeout_seconds' in [operations.x.poll]"),
    "cancel_url": (poll(cancel_url='"{$.a[}"'), "poll.cancel_url:"),
    "cancel_method": (poll(cancel_method='"GET"'), '"DELETE", "POST", "PUT" or "PATCH"'),
    "allow": (poll(allow='["https://a/b"]'), "poll.allow: 'https://a/b' is no host"),
    "unknown key": (poll(stat='"x"'), 'unknown key "stat" in [operations.x.poll]'),
    "missing key": (f'{HTTP}[operations.x.poll]\nstate = "$"\n', "missing key 'status_url' in [operations.x.poll]"),
    "no table": (f"{HTTP}poll = 3\n", "[operations.x.poll]"),
    "accepted": (f'{HTTP}accepted = "yes"\n', '"auto", "follow" or "result"'),
    "completion": (f'{HTTP}completion = "later"\n', '"answer" or "callback"'),
    "idempotency_header": (f'{HTTP}idempotency_header = "a b"\n', "a header's name"),
    "inline": (poll().replace('"http"\n', '"http"\nmode = "inline"\n', 1), 'mode = "inline" has no task'),
    "no public_url": (f'{CALLBACK}body = "{{callback_url}}"\n', "needs 'public_url' in [server]"),
    "nobody is told": (f"{URL}{CALLBACK}", "nobody could call back"),
    "callback and poll": (
        URL + poll().replace('"http"\n', '"http"\ncompletion = "callback"\n', 1),
        "and the table poll exclude each other",
    ),
    "a reserved name": (
        f'{URL}{CALLBACK}body = "{{callback_url}}"\nparameters = {{callback_token = {{}}}}\n',
        "must not be named 'callback_token'",
    ),
    "a placeholder without it": (f'{URL}{HTTP}body = "{{callback_url}}"\n', "names no parameter by {callback_url}"),
    "public_url": ('[server]\npublic_url = "tools.example.com"\n', "'public_url' in [server]"),
    "public_url query": ('[server]\npublic_url = "https://a/?x=1"\n', "'public_url' in [server]"),
    "public_url user": ('[server]\npublic_url = "https://a:b@c"\n', "'public_url' in [server]"),
    "callback_secret": ('[server]\ncallback_secret = "too-short"\n', "'callback_secret' in [server]"),
}


@pytest.mark.parametrize(("text", "told"), WRONG.values(), ids=WRONG)
def test_a_wrong_setting_stops_the_start_with_one_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "raincheck.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        make_operations(load_settings(file, environ={}))
    assert told in raised.value.message
    assert "\n" not in raised.value.message
    assert "too-short" not in raised.value.message


def test_the_good_ones_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "raincheck.toml"
    for text in (poll(), f'{URL}{CALLBACK}body = {{to = "{{callback_url}}"}}\n'):
        file.write_text(text)
        assert list(make_operations(load_settings(file, environ={}))) == ["x"]


def test_a_member_of_the_table_may_come_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "raincheck.toml"
    file.write_text(poll())
    settings = load_settings(file, environ={"RAINCHECK_OPERATIONS__X__POLL__INTERVAL_SECONDS": "7"})
    assert settings.operations["x"].poll.interval_seconds == 7  # type: ignore[union-attr]
