"""What admission counts with: places, bytes and turns."""

from __future__ import annotations

import asyncio

import pytest

from raincheck.errors import RateLimited
from raincheck.mcp.admission.answer_queue import AnswerTurns
from raincheck.mcp.admission.bytes_in_flight import BytesUnderWay, size_of
from raincheck.mcp.admission.slots import Places
from support.waiting import PATIENCE


def test_each_scope_has_its_own_places_and_none_is_remembered_that_has_none() -> None:
    places = Places(2, "At most {most}.")
    for scope in ("ada", "ada", "bob"):
        places.take(scope)
    with pytest.raises(RateLimited, match=r"At most 2\.") as refused:
        places.take("ada")
    assert refused.value.retryable
    places.give_back("ada")
    places.take("ada")
    for scope in ("ada", "ada", "bob"):
        places.give_back(scope)
    assert places._taken == {}  # pyright: ignore[reportPrivateUsage]
    unbounded = Places(0, "")
    for _ in range(100):
        unbounded.take("ada")


def test_bytes_are_bounded_for_a_scope_and_in_all_and_what_is_larger_goes_alone() -> None:
    under_way = BytesUnderWay(100, 150)
    under_way.take("ada", 1000)
    with pytest.raises(RateLimited, match="max_bytes_per_scope"):
        under_way.take("ada", 1)
    # Who has nothing under way is not refused for the others' sake, before it asks for much.
    under_way.check("bob")
    with pytest.raises(RateLimited, match=r"max_bytes\b"):
        under_way.take("bob", 1)
    under_way.give_back("ada", 1000)
    under_way.take("ada", 100)
    under_way.check("bob")
    under_way.take("bob", 50)
    with pytest.raises(RateLimited, match=r"max_bytes\b"):
        under_way.take("bob", 1)
    under_way.take("bob", 500, must=True)
    under_way.give_back("bob", 550)
    under_way.give_back("ada", 100)
    assert (under_way._of_scopes, under_way._total) == ({}, 0)  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [("x" * 1000, 1000, 1000), ([1] * 100, 100, 1000), ({"a": ["xx", {"b": None}]}, 2, 50), (None, 0, 8)],
)
def test_a_size_is_near_that_of_the_json(value: object, least: int, most: int) -> None:
    assert least <= size_of(value) <= most


async def test_a_scope_has_one_turn_at_a_time_and_the_next_comes_after_a_pause() -> None:
    turns, order = AnswerTurns(), list[str]()

    async def one(scope: str, name: str) -> None:
        await turns.take(scope)
        order.append(name)
        await asyncio.sleep(0)
        turns.give_back(scope)

    await turns.take("ada")
    waiting = [asyncio.create_task(one("ada", name)) for name in ("first", "gone", "second")]
    await asyncio.sleep(0)
    await one("bob", "other")
    waiting[1].cancel()
    turns.give_back("ada")
    await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), PATIENCE)
    assert order == ["other", "first", "second"]
    async with asyncio.timeout(PATIENCE):
        while turns._turns:  # pyright: ignore[reportPrivateUsage]
            await asyncio.sleep(0.01)
