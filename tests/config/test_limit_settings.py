"""`[limits]`, an operation's own limits and its breaker: where they come from, and what is told about a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raincheck.composition.adapters import service_settings
from raincheck.composition.operations import policy_of
from raincheck.config.loading import load_settings
from raincheck.config.settings import Settings
from raincheck.errors import ConfigurationError
from raincheck.operations.limit_policy import BreakerPolicy
from raincheck.operations.operation import Policy

RENDER = '[operations.render]\nkind = "http"\nurl = "http://127.0.0.1/"\n'
BREAKER = f"{RENDER}[operations.render.breaker]\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str, environ: dict[str, str] | None = None) -> Settings:
    path = Path("raincheck.toml")
    path.write_text(text)
    return load_settings(path, environ=environ or {})


def test_nothing_is_limited_unless_it_is_said_but_what_one_caller_has_pending() -> None:
    settings = load(RENDER)
    served, policy = service_settings(settings), policy_of(settings, "render")
    assert (served.max_pending, served.max_pending_per_scope, served.max_running_per_scope) == (0, None, 0)
    assert (policy.priority, policy.limited, policy.breaker) == (0, False, None)


def test_what_is_set_reaches_the_policy_and_the_service() -> None:
    text = (
        "[limits]\nmax_pending = 1000\nmax_pending_per_scope = 10\nmax_running_per_scope = 7\n"
        f"{RENDER}priority = -5\nmax_running = 2\nstarts_per_minute = 0.5\nstart_burst = 3\n"
        '[operations.render.breaker]\ncool_down_seconds = 5\ncodes = ["timeout"]\n'
    )
    environ = {
        "RAINCHECK_OPERATIONS__RENDER__BREAKER__MIN_CALLS": "7",
        "RAINCHECK_OPERATIONS__RENDER__MAX_RUNNING": "4",
        "RAINCHECK_LIMITS__MAX_PENDING": "2000",
    }
    settings = load(text, environ)
    served, policy = service_settings(settings), policy_of(settings, "render")
    assert (served.max_pending, served.max_pending_per_scope, served.max_running_per_scope) == (2000, 10, 7)
    assert (policy.priority, policy.max_running, policy.starts_per_minute, policy.start_burst) == (-5, 4, 0.5, 3)
    assert policy.breaker == BreakerPolicy(min_calls=7, cool_down_seconds=5, codes=("timeout",))


def test_an_empty_table_is_a_breaker_with_the_defaults() -> None:
    settings = load(BREAKER)
    assert policy_of(settings, "render").breaker == BreakerPolicy()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[limits]\nmax_pending = -1", "'max_pending' in [limits] of"),
        ("[limits]\nmax_pending_per_scope = 1.5", "'max_pending_per_scope' in [limits] of"),
        ("[limits]\nmax_running_per_scope = 2001", "a whole number from 0 up to 2000"),
        ("[limits]\nmax_pendin = 1", "did you mean max_pending?"),
        ("[limits]\nmax_calls_per_scope = -1", "'max_calls_per_scope' in [limits] of"),
        ("[limits]\nmax_streams_per_scope = true", "'max_streams_per_scope' in [limits] of"),
        ("[limits]\nmax_sessions_per_scope = 1e9", "a whole number from 0 up to 1000000"),
        ("[limits]\nmax_bytes_per_scope = -1", "'max_bytes_per_scope' in [limits] of"),
        ('[limits]\nmax_bytes = "1MB"', "'max_bytes' in [limits] of"),
        (f"{RENDER}priority = 101", "invalid value 101 for 'priority' in [operations.render]"),
        (f'{RENDER}priority = "high"', "a whole number from -100 up to 100"),
        (f"{RENDER}max_running = -1", "a whole number from 0 up to 2000"),
        (f"{RENDER}starts_per_minute = -0.1", "'starts_per_minute' in [operations.render]"),
        (f"{RENDER}start_burst = 0", "a whole number from 1 up to 100000"),
        (f"{RENDER}breaker = true", "[operations.render.breaker] of"),
        (f"{BREAKER}failure_rate = 0", "invalid value 0 for 'failure_rate' in [operations.render.breaker]"),
        (f"{BREAKER}failure_rate = 1.1", "a number above 0 up to 1"),
        (f"{BREAKER}window_seconds = 0.5", "'window_seconds' in [operations.render.breaker]"),
        (f"{BREAKER}min_calls = 0", "'min_calls' in [operations.render.breaker]"),
        (f"{BREAKER}cool_down_seconds = 0", "a number from 0.1 up to 86400"),
        (f"{BREAKER}probes = 101", "a whole number from 1 up to 100"),
        (f"{BREAKER}codes = []", "'codes' in [operations.render.breaker]"),
        (f'{BREAKER}codes = ["cancelled"]', '"upstream_error"'),
        (f"{BREAKER}cool_down_second = 1", "did you mean cool_down_seconds?"),
    ],
)
def test_a_wrong_limit_is_one_line_with_table_key_and_what_is_allowed(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(text)
    assert told in caught.value.message
    assert "raincheck.toml" in caught.value.message
    assert len(caught.value.message.splitlines()) == 1


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"RAINCHECK_OPERATIONS__RENDER__BREAKER__PROBES": "many"}, "PROBES"),
        ({"RAINCHECK_OPERATIONS__RENDER__BREAKER__PROBE": "1"}, "did you mean PROBES?"),
    ],
)
def test_a_wrong_variable_of_a_breaker_is_named(environ: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(BREAKER, environ)
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"priority": 101}, "priority must be from -100 to 100; it was 101."),
        ({"priority": True}, "priority must be"),
        ({"max_running": -1}, "max_running must be from 0 to 2000"),
        ({"starts_per_minute": float("nan")}, "starts_per_minute must be from 0"),
        ({"start_burst": 0}, "start_burst must be from 1"),
        ({"starts_per_minute": -1}, "starts_per_minute must be from 0 to 6000000; it was -1."),
        ({"max_inline_bytes": 1048577}, "max_inline_bytes must be from 1 to 1048576; it was 1048577."),
        ({"max_inline_bytes": "5"}, "max_inline_bytes must be from 1 to 1048576; it was '5'."),
        ({"mode": "tsk"}, "mode must be inline, auto or task; it was 'tsk'."),
        ({"mode": ["task"]}, "mode must be inline, auto or task; it was ['task']."),
        ({"without_tasks": None}, "without_tasks must be ticket, wait or refuse; it was None."),
        ({"on_worker_lost": "again"}, "on_worker_lost must be fail or retry; it was 'again'."),
        ({"dedupe": "key"}, "dedupe must be keys or inflight; it was 'key'."),
        ({"answer_by": "users"}, "answer_by must be user or anyone; it was 'users'."),
        ({"timeout_seconds": -1}, "timeout_seconds must be above 0 and at most 315360000; it was -1."),
        ({"timeout_seconds": "5"}, "timeout_seconds must be above 0 and at most 315360000; it was '5'."),
        ({"default_max_wait_seconds": float("inf")}, "default_max_wait_seconds must be above 0"),
        ({"max_wait_ceiling_seconds": float("nan")}, "max_wait_ceiling_seconds must be above 0"),
        ({"ttl_seconds": 0}, "ttl_seconds must be above 0"),
        ({"inline_wait_seconds": "long"}, "inline_wait_seconds must be \"auto\" or from 0 to 60; it was 'long'."),
        ({"inline_wait_seconds": -1}, 'inline_wait_seconds must be "auto" or from 0 to 60; it was -1.'),
        ({"max_attempts": 0}, "max_attempts must be from 1 to 100; it was 0."),
        ({"retry_attempts": -1}, "retry_attempts must be from 0 to 100; it was -1."),
        ({"max_result_bytes": 0}, "max_result_bytes must be from 1 to 536870912; it was 0."),
    ],
)
def test_a_policy_with_a_wrong_limit_cannot_be_made(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Policy(**wrong)
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"failure_rate": 0.0}, "failure_rate must be above 0 and at most 1; it was 0.0."),
        ({"window_seconds": 0}, "window_seconds must be from 1"),
        ({"min_calls": "ten"}, "min_calls must be from 1"),
        ({"cool_down_seconds": float("inf")}, "cool_down_seconds must be from 0.1"),
        ({"probes": 0}, "probes must be from 1 to 100"),
        ({"codes": ("nonsense",)}, "A breaker's codes must be some of operation_failed,"),
        ({"codes": ()}, "A breaker's codes must be some of"),
    ],
)
def test_a_breaker_with_a_wrong_setting_cannot_be_made(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        BreakerPolicy(**wrong)
    assert told in caught.value.message
