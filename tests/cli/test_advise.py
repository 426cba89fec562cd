"""`raincheck advise`: the policy that a history speaks for."""

from __future__ import annotations

import asyncio
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hints.histories import cancelled, ended, failed, history_of, timed_out

from raincheck.cli.advice import advice_on
from raincheck.cli.advise import toml_lines
from raincheck.config.loading import load_settings
from raincheck.operations.context import TaskContext
from raincheck.operations.operation import Policy
from support.command_line import CommandLine, Tasks
from support.lab import Lab
from support.waiting import PATIENCE


def test_what_is_always_quick_is_inline() -> None:
    advice = advice_on(history_of([ended(0.2 + 0.001 * number) for number in range(1200)]))
    assert (advice.row, advice.mode, advice.breaker) == ("inline", "inline", False)
    assert advice.p50 == pytest.approx(0.8, rel=0.03)


def test_what_is_mostly_quick_waits_a_little_and_then_gives_a_ticket() -> None:
    advice = advice_on(history_of([ended(1.2)] * 90 + [ended(40.0)] * 10))
    assert (advice.row, advice.mode, advice.inline_wait_seconds) == ("ticket", "auto", 1.5)
    assert advice.timeout_seconds == 100


def test_a_queue_in_front_counts_for_the_inline_wait() -> None:
    advice = advice_on(history_of([ended(1.2, waited=2.0)] * 90 + [ended(40.0)] * 10))
    assert (advice.mode, advice.inline_wait_seconds) == ("auto", 3.5)
    assert advice.queue_p95 == pytest.approx(2.0, rel=0.02)


def test_what_is_slow_gets_a_ticket_at_once_and_what_takes_many_minutes_a_webhook_too() -> None:
    slow = advice_on(history_of([ended(30.0)] * 100))
    assert (slow.row, slow.mode) == ("ticket", "task")
    long = advice_on(history_of([ended(900.0)] * 100))
    assert (long.row, long.mode) == ("ticket + webhook", "task")
    assert "# url" in "\n".join(toml_lines(long))
    assert long.settings() == {"mode": "task", "timeout_seconds": 2000, "default_max_wait_seconds": 4000}


def test_what_fails_often_gets_a_breaker_in_front() -> None:
    advice = advice_on(history_of([ended(30.0)] * 80 + [failed(1.0)] * 20))
    assert advice.breaker
    assert advice.failure_share == pytest.approx(0.2)
    assert "20% of the calls fail" in advice.why[-1]
    assert not advice_on(history_of([ended(30.0)] * 96 + [failed(1.0)] * 4)).breaker


def test_the_timeout_is_the_999th_of_a_thousand_and_a_margin() -> None:
    rng = random.Random(5)
    lasted = sorted(rng.lognormvariate(3, 0.5) for _ in range(3000))
    advice = advice_on(history_of([ended(each) for each in lasted]))
    exact = lasted[2996]
    assert advice.p999 == pytest.approx(exact, rel=0.02)
    assert advice.timeout_seconds is not None
    assert 1.45 * exact <= advice.timeout_seconds <= 2.3 * exact


def test_runs_that_were_cut_off_ask_for_more_time() -> None:
    history = history_of([ended(20.0)] * 90 + [timed_out(60.0)] * 10)
    advice = advice_on(history, Policy(timeout_seconds=60))
    assert advice.timeout_seconds == 150
    assert advice.p999 is None
    assert "10.0% ran into a timeout" in " ".join(advice.why)
    hanging = advice_on(history_of([ended(20.0)] * 60 + [timed_out(60.0)] * 40))
    assert "hanging" in " ".join(hanging.why)


def test_cancelled_runs_count_as_longer_ones() -> None:
    plain = advice_on(history_of([ended(1.0)] * 50 + [ended(30.0)] * 30))
    assert plain.p50 == pytest.approx(1.0, rel=0.02)
    impatient = advice_on(history_of([ended(0.5)] * 50 + [ended(30.0)] * 30 + [cancelled(1.0)] * 60))
    assert impatient.p50 == pytest.approx(30.0, rel=0.02)
    assert impatient.failure_share == 0.0


def test_too_little_history_is_said_and_nothing_advised() -> None:
    advice = advice_on(history_of([ended(1.0)] * 29))
    assert not advice.enough
    assert (advice.row, advice.timeout_seconds, advice.breaker) == (None, None, False)
    assert "only 29 whole runs" in advice.why[0]
    assert "it needs more time" in advice_on(history_of([timed_out(60.0)] * 50)).why[0]
    assert not advice_on(history_of([])).enough


@pytest.mark.parametrize("name", ["report", "a.b", "with-dash"])
def test_the_lines_can_be_pasted(tmp_path: Path, name: str) -> None:
    history = history_of([ended(1.2)] * 70 + [failed(30.0)] * 20 + [ended(900.0)] * 10)
    history.operation_type = name
    lines = toml_lines(advice_on(history))
    text = "\n".join(lines).replace("mode =", 'kind = "command"\nargv = ["true"]\nmode =')
    assert tomllib.loads(text)
    file = tmp_path / "raincheck.toml"
    file.write_text(text)
    settings = load_settings(file, environ={})
    assert settings.operations[name].breaker is not None
    assert settings.operations[name].inline_wait_seconds == 1.5


CONFIG = """
[state]
url = "tasks.db"
[operations.report]
kind = "command"
argv = ["true"]
[operations.unused]
kind = "command"
argv = ["true"]
"""


def fill(path: Path) -> None:
    lab = Lab(path)

    @lab.operation("report")
    async def report(arguments: Any, context: TaskContext) -> int:  # pyright: ignore[reportUnusedFunction]
        await asyncio.sleep(0.01)
        if arguments["number"] % 4 == 0:
            raise ValueError("no paper")
        return 1

    @lab.operation("rare")
    async def rare(arguments: Any, context: TaskContext) -> int:  # pyright: ignore[reportUnusedFunction]
        return 1

    async def run() -> None:
        async with lab.service() as service:
            refs: list[str] = []
            for number in range(40):
                refs.append((await service.registry.submit("report", {"number": number}, scope="ada")).task.task_ref)
            refs.append((await service.registry.submit("rare", {}, scope="ada")).task.task_ref)
            for ref in refs:
                assert (await service.registry.wait(ref, scope="ada", seconds=PATIENCE)).terminal

    asyncio.run(run())


def test_real_runs_are_read_from_a_real_store(raincheck: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "raincheck.toml").write_text(CONFIG)
    fill(tmp_path / "tasks.db")
    said = raincheck("advise")
    assert (said.code, said.err) == (0, "")
    for part in ("inline, breaker in front", "25.0%", "too little history", "only 1 whole runs", "no history: unused"):
        assert part in said.out
    assert "    [operations.report]\n    mode = " in said.out
    assert "now: mode auto, inline_wait_seconds auto" in said.out
    told = raincheck("advise", "raincheck.toml", "--json").json
    assert told["without_history"] == ["unused"]
    rare, report = told["operations"]
    assert (rare["operation_type"], rare["enough"], rare["toml"], rare["present"]) == ("rare", False, None, None)
    assert (report["ends"], report["failure_share"], report["codes"]["operation_failed"]) == (40, 0.25, 10)
    assert report["present"]["timeout_seconds"] == 120
    assert tomllib.loads(report["toml"])["operations"]["report"]["timeout_seconds"] == report["timeout_seconds"]


def test_a_store_without_history_says_so(raincheck: CommandLine, tasks: Tasks) -> None:
    tasks.add()
    said = raincheck("advise")
    assert (said.code, said.out) == (0, "No history yet: no task has ended in this store.\n")
    assert raincheck("advise", "--json").json["operations"] == []


def test_without_a_store_or_with_wrong_settings_it_fails_in_one_line(raincheck: CommandLine, tmp_path: Path) -> None:
    missing = raincheck("advise", "--state-url", str(tmp_path / "none.db"))
    assert missing.code == 1
    assert "there is no task store" in missing.err
    assert raincheck("advise", "nowhere.toml").code == 2
    (tmp_path / "raincheck.toml").write_text('[state]\nprovider = "memory"\n')
    assert raincheck("advise").code == 2
    for text, named in (('learn = "perhaps"', "learn"), ("learn = 2", "learn")):
        (tmp_path / "raincheck.toml").write_text(f"[polling]\n{text}\n")
        said = raincheck("advise")
        assert said.code == 2
        assert named in said.err
        assert "true or false" in said.err
        assert said.err.count("\n") == 1
