"""Whatever an operation raises, and whatever it puts there as details, is told in bounded time and room."""

from __future__ import annotations

import itertools
import json
from functools import partial
from typing import Any

import pytest

from raincheck.domain.traces import raised_by
from raincheck.operations.error_details import LARGEST_DATA, plain_details
from raincheck.operations.untrusted_json import NotJson, read_json

# Of a library that is installed.
CAUGHT = compile(
    """
def caught(work):
    try:
        try:
            work()
        except Exception as error:
            raise error from error
    except Exception as error:
        return error
""",
    "/usr/lib/site-packages/library.py",
    "exec",
)


def test_an_error_that_is_its_own_cause_is_told() -> None:
    scope: dict[str, Any] = {}
    exec(CAUGHT, scope)
    error = scope["caught"](partial(read_json, b"{"))
    assert isinstance(error, NotJson)
    assert error.__cause__ is error
    assert raised_by(error).type == "raincheck.operations.untrusted_json.NotJson"


def doubled(value: Any, times: int) -> Any:
    for _ in range(times):
        value = [value, value]
    return value


TEXT = "x" * 1_000_000


@pytest.mark.parametrize("shared", [doubled("", 19), [doubled("", 19)], {"a": doubled(3, 19)}, [TEXT] * 40])
def test_what_details_name_often_is_written_a_bounded_number_of_times(shared: Any) -> None:
    written = json.dumps(plain_details({"shared": shared}, 10**9))
    assert written.count("[") + written.count(",") < 200_000
    assert len(written) < 6_000_000
    assert "\\u2026" in written


def test_details_within_the_bounds_are_kept_whole() -> None:
    whole = {"numbers": list(range(10_000)), "texts": ["a", {"b": [None, True, 0.5]}], "twice": [TEXT[:99]] * 2}
    assert plain_details(whole, LARGEST_DATA) == whole


def test_details_that_are_never_over_are_not_waited_for() -> None:
    endless = (n for n in itertools.count())
    assert str(plain_details({"n": endless}, LARGEST_DATA)["n"]).startswith("<generator object")
