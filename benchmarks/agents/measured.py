"""What a conversation cost, and whether the model was given the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.agents.model.script import CANCELLED, DONE
from benchmarks.agents.model.server import Exchange, Record
from benchmarks.agents.model.toolbox import named
from benchmarks.agents.scenarios import Scenario
from benchmarks.agents.workplace import Workplace

__all__ = ["Measures", "measured"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """What one conversation cost.

    Attributes:
        turns: Requests of the main conversation.
        searches: Of these, those in which the model looked for tools that the host does not show at once.
        side_calls: The host's other requests to the model.
        polls: Calls of resolve_task_status, those that read a page apart.
        bytes_in: The bodies of the main conversation's requests together.
        first_bytes: The first of them.
        tools, tool_bytes: What the last of them offers.
        delivered: The model's last answer has the digest of what the operation returned, or says that it was cancelled.
        share: How much of the result the model was given.
        noticed: Seconds from the end of the operation to the request that brings the model the result.
        identical: The longest row of equal calls one after another.
        calls: The tools called, in order.
        turn_seconds: When each turn came, from the first.
        last: The model's last text.
    """

    turns: int = 0
    searches: int = 0
    side_calls: int = 0
    polls: int = 0
    bytes_in: int = 0
    first_bytes: int = 0
    tools: int = 0
    tool_bytes: int = 0
    delivered: bool = False
    share: float = 0.0
    noticed: float | None = None
    identical: int = 0
    calls: list[str] = field(default_factory=list[str])
    turn_seconds: list[float] = field(default_factory=list[float])
    last: str = ""


def measured(record: Record, place: Workplace, scenario: Scenario) -> Measures:
    """Of what the model was sent, and of the clock of the operations."""
    main = [each for each in record.exchanges if each.main]
    if not main:
        return Measures(side_calls=len(record.exchanges))
    calls = [each.call for each in main if each.call]
    delivered, share, noticed = _delivery(main, place, scenario)
    return Measures(
        turns=len(main),
        searches=sum(named(name, "tool_?search") for name, _ in calls),
        side_calls=len(record.exchanges) - len(main),
        polls=sum("resolve_task_status" in name and "result_offset" not in given for name, given in calls),
        bytes_in=sum(each.bytes_in for each in main),
        first_bytes=main[0].bytes_in,
        tools=main[-1].tools,
        tool_bytes=main[-1].tool_bytes,
        delivered=delivered,
        share=round(share, 3),
        noticed=noticed,
        identical=_longest_row(calls),
        calls=[f"{name} {given}"[:300] for name, given in calls],
        turn_seconds=[round(each.at - main[0].at, 2) for each in main],
        last=main[-1].text[:300],
    )


def _delivery(main: Sequence[Exchange], place: Workplace, scenario: Scenario) -> tuple[bool, float, float | None]:
    """Whether the result arrived, how much of it, and how long after the end."""
    if scenario.then == "cancel":
        cancelled = any(entry["event"] == "cancelled" for entry in place.clock())
        return cancelled and CANCELLED in main[-1].text, float(cancelled), None
    said = [each.text for each in main]
    ends = [entry for entry in place.clock() if entry["event"] == "ended"]
    ended = next((entry for entry in ends if f"{DONE} {entry['digest']}" in said), ends[-1] if ends else None)
    if ended is None:
        return False, 0.0, None
    brought = next((each for each in main if each.lines), None)
    noticed = round(brought.at - ended["at"], 2) if brought else None
    share = min(1.0, max(each.lines for each in main) / ended["lines"])
    return f"{DONE} {ended['digest']}" in said, share, noticed


def _longest_row(calls: Sequence[tuple[str, str]]) -> int:
    longest = row = 0
    before: tuple[str, str] | None = None
    for call in calls:
        row = row + 1 if call == before else 1
        before, longest = call, max(longest, row)
    return longest
