"""`[webhooks]`, an operation's own webhook, and the same in a library's arguments: every mistake is one line."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from webhooks.receiver import OTHER_SECRET, SECRET, receiving

from raincheck import Raincheck
from raincheck.cli.main import main
from raincheck.composition.adapters import service_settings
from raincheck.composition.operations import make_operations, policy_of
from raincheck.config.loading import load_settings
from raincheck.config.settings import Settings
from raincheck.errors import ConfigurationError, MissingDependency
from raincheck.operations.webhook import Webhook
from raincheck.stores.memory.store import MemoryStore
from raincheck.webhooks.signing import secret_of

ALLOWED = f"[webhooks]\nallow = ['hooks.example.com']\nsecrets = ['{SECRET}']\n"
HTTP = "[operations.render]\nkind = 'http'\nurl = 'http://127.0.0.1/'\ndescription = 'd'\n"
OWN = HTTP + "[operations.render.webhook]\nurl = 'https://hooks.example.com/hunter2'\n"
SHORT = "whsec_aHVudGVyMg=="


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str, environ: dict[str, str] | None = None) -> Settings:
    Path("raincheck.toml").write_text(text)
    return load_settings(None, environ=environ or {})


def one_line(caught: pytest.ExceptionInfo[Any]) -> str:
    message: str = caught.value.message
    assert len(message.splitlines()) == 1
    for secret in ("hunter2", SECRET, SHORT):
        assert secret not in message
    return message


def test_what_is_set_reaches_the_rules_and_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEW_SECRET", SECRET)
    monkeypatch.setenv("TOKEN", "hunter2")
    settings = load(
        "[webhooks]\nallow = ['hooks.example.com', 'http://*.test.example:*', '10.0.0.7:8443']\n"
        "allow_networks = ['10.0.0.0/8', 'fd12::/48']\n"
        f"secrets = ['${{NEW_SECRET}}', '{OTHER_SECRET}']\ntimeout_seconds = 3\n"
        "give_up_seconds = 60\nmax_concurrency = 2\n"
        + HTTP
        + "[operations.render.webhook]\nurl = 'https://hooks.example.com/${TOKEN}'\nevents = ['failed']\n"
        "headers = {Authorization = 'Bearer ${TOKEN}'}\n"
    )
    rules = service_settings(settings).webhooks
    assert [str(rule) for rule in rules.allow] == ["hooks.example.com", "http://*.test.example:*", "10.0.0.7:8443"]
    assert rules.secrets == (SECRET, OTHER_SECRET)
    assert (rules.timeout_seconds, rules.give_up_seconds, rules.max_concurrency) == (3, 60, 2)
    assert rules.check_callback("https://10.0.0.7:8443/") == "https://10.0.0.7:8443/"
    webhook = policy_of(settings, "render").webhook
    assert webhook is not None
    assert (webhook.url, webhook.events) == ("https://hooks.example.com/hunter2", ("failed",))
    assert webhook.headers == {"Authorization": "Bearer hunter2"}
    assert webhook.host == "https://hooks.example.com"
    for shown in (repr(rules), repr(webhook), repr(settings.webhooks), repr(settings.operations)):
        assert not {secret for secret in ("hunter2", SECRET, OTHER_SECRET) if secret in shown}


def test_the_environment_overrides_the_file() -> None:
    environ = {
        "RAINCHECK_WEBHOOKS__SECRETS": f'["{OTHER_SECRET}"]',
        "RAINCHECK_OPERATIONS__RENDER__WEBHOOK__URL": "https://other.example.com/",
    }
    settings = load(ALLOWED + OWN, environ)
    assert settings.webhooks.secrets == (OTHER_SECRET,)
    webhook = settings.operations["render"].webhook
    assert webhook is not None
    assert webhook.url == "https://other.example.com/"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[webhooks]\nallow = ['https://']", "'allow' in [webhooks]"),
        ("[webhooks]\nallow = ['ftp://a.example']", "is no host"),
        ("[webhooks]\nallow = ['a.example/path']", "is no host"),
        ("[webhooks]\nallow = ['*.com']", "as in *.example.com"),
        ("[webhooks]\nallow = ['a.example:99999']", "a port is from 1 to 65535"),
        ("[webhooks]\nallow = 'a.example'", "a list of texts"),
        ("[webhooks]\nallow = ['a.example']", "'allow' needs 'secrets'"),
        ("[webhooks]\nallow_networks = ['10.0.0.1/8']", "'allow_networks' in [webhooks]"),
        ("[webhooks]\nallow_networks = ['intranet']", "is no network"),
        ("[webhooks]\nallow_networks = [8]", "'allow_networks' in [webhooks]"),
        ("[webhooks]\nsecrets = ['hunter2']", "each is whsec_"),
        (f"[webhooks]\nsecrets = ['{SHORT}']", "24 to 64 random bytes"),
        (f"[webhooks]\nsecrets = {[SECRET] * 11}", "at most 10"),
        ("[webhooks]\nsecrets = 'hunter2'", "'secrets' in [webhooks]"),
        ("[webhooks]\ntimeout_seconds = 0", "a number from 0.1 up to 120"),
        ("[webhooks]\ntimeout_seconds = 121", "'timeout_seconds' in [webhooks]"),
        ("[webhooks]\ngive_up_seconds = 0.5", "'give_up_seconds' in [webhooks]"),
        ("[webhooks]\ngive_up_seconds = 604801", "up to 604800"),
        ("[webhooks]\nmax_concurrency = 0", "a whole number from 1 up to 1000"),
        ("[webhooks]\nmax_concurrency = true", "'max_concurrency' in [webhooks]"),
        ("[webhooks]\nsecret = 'hunter2'", "did you mean secrets?"),
        (OWN, "'secrets' is missing in [operations.render.webhook] and in [webhooks]"),
        (ALLOWED + HTTP + "webhook = 'hunter2'", "[operations.render.webhook]"),
        (ALLOWED + HTTP + "[operations.render.webhook]\n", "missing key 'url' in [operations.render.webhook]"),
        (ALLOWED + HTTP + "[operations.render.webhook]\nurl = 'hunter2'", "'url' in [operations.render.webhook]"),
        (ALLOWED + OWN + "events = []", "'events' in [operations.render.webhook]"),
        (ALLOWED + OWN + "events = ['pending']", '"completed", "failed" or "cancelled"'),
        (ALLOWED + OWN + "headers = {a = 1}", "'headers' in [operations.render.webhook]"),
        (ALLOWED + OWN + "secrets = ['hunter2']", "'secrets' in [operations.render.webhook]"),
        (ALLOWED + OWN + "event = ['failed']", "did you mean events?"),
    ],
)
def test_a_wrong_setting_is_one_line_with_table_key_and_what_is_allowed(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(text)
    assert told in one_line(caught)
    assert "raincheck.toml" in caught.value.message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (ALLOWED.replace(SECRET, "${NO_SECRET}"), "[webhooks] of raincheck.toml: 'secrets' names ${NO_SECRET}"),
        (ALLOWED.replace(SECRET, "${WRONG}"), "[webhooks] of raincheck.toml: invalid value for 'secrets'"),
        (ALLOWED + OWN.replace("hunter2", "${NO_PATH}"), "[operations.render] of raincheck.toml: webhook: 'url' names"),
        (ALLOWED + OWN.replace("https://hooks.example.com/", "${WRONG}"), "webhook: invalid value for 'url'"),
        (ALLOWED + OWN.replace("hooks.example.com/", "ada:pw@hooks.example.com/"), "no user and no password"),
        (ALLOWED + OWN + "headers = {'a b' = 'c'}", "webhook: invalid value for 'headers': 'a b' is no header's name"),
        (ALLOWED + OWN + "headers = {Webhook-Id = 'c'}", "raincheck writes itself"),
        (ALLOWED + OWN + "headers = {a = 'b\\u0000'}".replace("'b\\u0000'", '"b\\u0000"'), "a control character"),
        (ALLOWED + OWN + "headers = {a = '${BROKEN}'}", "a control character"),
    ],
)
def test_what_the_environment_lacks_or_has_wrong_stops_the_start(
    text: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRONG", "hunter2")
    monkeypatch.setenv("BROKEN", "hunter2\nx")
    settings = load(text)

    def start() -> None:
        make_operations(settings)
        service_settings(settings)

    with pytest.raises(ConfigurationError) as caught:
        start()
    assert told in one_line(caught)


def test_without_the_library_that_signs_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., ModuleSpec | None] = importlib.util.find_spec

    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == "standardwebhooks" else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert service_settings(load("")).webhooks.secrets == ()
    with pytest.raises(MissingDependency, match=r'pip install .*\[webhooks\]"'):
        service_settings(load(ALLOWED))


def test_check_shows_a_webhooks_host_and_nothing_secret(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Path("raincheck.toml").write_text(
        ALLOWED + OWN + f"headers = {{X-Token = 'hunter2'}}\nsecrets = ['{OTHER_SECRET}']"
    )
    for flags in ((), ("--json",)):
        assert main(["check", "--state-url", str(tmp_path / "tasks.db"), *flags]) == 0
        shown = capsys.readouterr().out
        assert not {secret for secret in ("hunter2", SECRET, OTHER_SECRET) if secret in shown}
    assert '"host": "https://hooks.example.com"' in shown


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"url": "hunter2"}, "webhook: invalid value for 'url': an address begins with https://"),
        ({"url": "https://a.example/", "secrets": ["hunter2"]}, "webhook: invalid value for 'secrets'"),
        ({"url": "https://a.example/", "secrets": SECRET}, "webhook: 'secrets' is a list"),
        ({"url": "https://a.example/", "events": ["pending"]}, "webhook: invalid value for 'events'"),
        ({"url": "https://a.example/", "events": []}, "webhook: invalid value for 'events'"),
        ({"url": "https://a.example/", "headers": {"host": "b"}}, "raincheck writes itself"),
        ({"url": "https://${NOWHERE}/"}, "no such environment variable"),
    ],
)
def test_a_wrong_webhook_of_a_library_is_told_in_one_line(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Webhook(**values)
    assert told in one_line(caught)


@pytest.mark.parametrize(
    ("webhooks", "told"),
    [
        ({"allow": ["a.example"]}, "'allow' needs 'secrets'"),
        ({"allowed": []}, "did you mean allow?"),
        ({"timeout_seconds": "hunter2"}, "'timeout_seconds' in [webhooks] of Raincheck(webhooks=…)"),
    ],
)
def test_wrong_webhooks_of_a_library_are_told_in_one_line(webhooks: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Raincheck(store=MemoryStore(), webhooks=webhooks)
    message = caught.value.message
    assert told in message
    assert len(message.splitlines()) == 1


async def test_a_librarys_operation_tells_its_own_webhook_and_its_callers() -> None:
    async with receiving() as own, receiving() as theirs:
        rc = Raincheck(store=MemoryStore(), webhooks={"allow": [theirs.host], "secrets": [SECRET]})

        @rc.operation(webhook=Webhook(url=own.url))
        async def double(number: int) -> int:
            return 2 * number

        async with rc.running() as registry:
            await registry.submit("double", {"number": 21}, scope="ada", callback_url=theirs.url)
            (message,) = await own.got(1)
            assert message["data"]["result"] == 42
            assert await theirs.got(1) == [message]


def test_the_command_line_prints_a_receivers_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEW_SECRET", SECRET)
    file = tmp_path / "raincheck.toml"
    file.write_text(f"[webhooks]\nallow = ['a.example']\nsecrets = ['${{NEW_SECRET}}', '{OTHER_SECRET}']\n")
    command = ("tasks", "webhooks", "secret", "--config", str(file))
    assert main((*command, "https://a.example/hook")) == 0
    assert capsys.readouterr().out.split() == [secret_of(each, "https://a.example") for each in (SECRET, OTHER_SECRET)]
    assert main((*command, "ftp://a.example/")) == 1
    file.write_text("")
    assert main((*command, "https://a.example/hook")) == 1
    assert "there are no 'secrets' in [webhooks]" in capsys.readouterr().err
