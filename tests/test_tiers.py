"""Every test is in one of the two tiers, and what a newcomer runs is whole (tiers.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiers import FULL, FULL_FILES, QUICK, TESTS, is_full_file


def test_every_folder_is_in_one_tier() -> None:
    folders = {path.relative_to(TESTS).parts[0] for path in TESTS.glob("*/**/test_*.py")}
    assert folders - QUICK - FULL.keys() == set()
    assert QUICK & FULL.keys() == set()
    assert FULL.keys() - folders == set()


@pytest.mark.parametrize("pattern", FULL_FILES)
def test_every_named_file_is_there(pattern: str) -> None:
    assert list(TESTS.glob(pattern))


def test_ci_runs_both_tiers() -> None:
    assert "make test-all\n" in (TESTS.parent / ".ci" / "run").read_text()
    made = (TESTS.parent / "Makefile").read_text()
    all_tests = made.partition("\ntest-all:")[2].splitlines()[1]
    assert "pytest" in all_tests
    assert "--quick" not in all_tests


@pytest.mark.parametrize(
    "promise", ["domain", "core", "stores/test_machine.py", "stores/test_sqlite_file.py", "spec", "mcp", "docs", "demo"]
)
def test_what_a_newcomer_runs_has_every_room(promise: str) -> None:
    files: list[Path] = [TESTS / promise] if promise.endswith(".py") else list((TESTS / promise).glob("test_*.py"))
    assert [path for path in files if not is_full_file(path)]
