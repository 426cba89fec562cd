"""The manifest and the tests name each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from spec.requirements import REQUIREMENTS

TESTS = Path(__file__).parents[1]
ROWS = {f"A{n}" for n in range(1, 24)} | {f"B{n}" for n in range(1, 8)}


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node


def marks(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {
        ast.literal_eval(argument)
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.requirement"
        for argument in decorator.args
    }


def test_every_row_is_there_and_has_its_tests_or_a_reason() -> None:
    assert set(REQUIREMENTS) == ROWS
    for row, requirement in REQUIREMENTS.items():
        assert requirement.text, row
        assert bool(requirement.tests) != bool(requirement.reason), row
        assert len(set(requirement.tests)) == len(requirement.tests), row


@pytest.mark.parametrize("row", sorted(ROWS))
def test_every_test_of_a_row_exists(row: str) -> None:
    for test in REQUIREMENTS[row].tests:
        file, _, name = test.partition("::")
        found = next((each for each in functions(TESTS / file) if each.name == name), None)
        assert found is not None, test
        # The client's tests are held by this side of the manifest alone.
        assert file.startswith("client/") or row in marks(found), f"{test} is not marked with {row}"


def test_every_marked_test_is_in_the_rows_it_names() -> None:
    marked = 0
    for file in TESTS.rglob("test_*.py"):
        for function in functions(file):
            for row in marks(function):
                test = f"{file.relative_to(TESTS).as_posix()}::{function.name}"
                assert row in REQUIREMENTS, f"{test} names {row}"
                assert test in REQUIREMENTS[row].tests, f"{test} is not among the tests of {row}"
                marked += 1
    assert marked > len(ROWS)
