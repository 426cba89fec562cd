"""The judge of the conformance suite can say no."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conformance.judge import ALLOWED, EMPTY, NOT_APPLICABLE, judged, listed, results_in, table


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


def test_the_page_names_every_scenario_that_is_left_out_with_its_reason() -> None:
    page = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \|$", page, re.MULTILINE))
    assert rows == {**NOT_APPLICABLE, **EMPTY}
    assert not ALLOWED, "a warning that is allowed stands on the page too"


def test_the_locked_suite_is_the_one_that_the_page_names() -> None:
    lock = json.loads(Path(__file__).with_name("package-lock.json").read_text())
    suite = lock["packages"]["node_modules/@modelcontextprotocol/conformance"]
    page = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
    assert f"`@modelcontextprotocol/conformance` {suite['version']}" in page
    # No address of a registry: whoever installs it takes their own.
    assert all("resolved" not in package for package in lock["packages"].values())
