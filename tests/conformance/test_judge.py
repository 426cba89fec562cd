"""The judge of the conformance suite can say no."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conformance.judge import judged, listed, results_in, table


def check(status: str) -> dict[str, str]:
    return {"id": "some-check", "status": status, "errorMessage": "why not"}


def test_what_passed_or_was_skipped_by_the_suite_is_good_if_something_passed() -> None:
    verdict = judged("ping", "2025-11-25", [check("SUCCESS"), check("INFO"), check("SKIPPED")])
    assert verdict.good
    assert verdict.passed == 1
    assert not judged("ping", "2025-11-25", [check("SKIPPED"), check("INFO")]).good
    assert judged("tasks-status-notifications", "extension", [check("SKIPPED")]).good


@pytest.mark.parametrize("status", ["FAILURE", "WARNING", "SOMETHING_NEW"])
def test_a_check_that_did_not_pass_fails_its_scenario_and_is_shown(status: str) -> None:
    verdict = judged("ping", "2025-11-25", [check("SUCCESS"), check(status)])
    assert not verdict.good
    assert f"{status} some-check: why not" in table([verdict])
    assert "FAIL" in table([verdict])


def test_a_scenario_without_a_result_has_failed(tmp_path: Path) -> None:
    done = tmp_path / "server-ping-2026-11-22T18-56-14-349Z"
    done.mkdir()
    (done / "checks.json").write_text(json.dumps([check("SUCCESS")]))
    verdicts = results_in(tmp_path, "2025-11-25", ["ping", "server-initialize"])
    assert [verdict.good for verdict in verdicts] == [True, False]


def test_the_scenarios_are_read_from_the_suites_own_list() -> None:
    text = "Server scenarios:\n  - ping [2025-06-18,2025-11-25]\n  - tasks-lifecycle [extension]\n"
    assert listed(text) == {"ping": ("2025-06-18", "2025-11-25"), "tasks-lifecycle": ("extension",)}
