"""What is asked of every host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["LONG", "QUICK", "SCENARIOS", "Scenario"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One call.

    Attributes:
        name, title: For the command line, and for the page.
        operation, arguments: What is called.
        seconds: How long the operation takes.
        then: What the model does once it has a ticket: "wait" or "cancel".
    """

    name: str
    title: str
    operation: str
    arguments: Mapping[str, float] = field(default_factory=dict[str, float])
    seconds: float
    then: str = "wait"


def _nap(name: str, title: str, seconds: float, operation: str = "nap", then: str = "wait") -> Scenario:
    return Scenario(
        name=name, title=title, operation=operation, arguments={"seconds": seconds}, seconds=seconds, then=then
    )


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        _nap("short", "0.2 s", 0.2),
        _nap("silent", "20 s, no progress", 20),
        _nap("progress", "20 s, progress every 2 s", 20, "work"),
        _nap("minute", "70 s, no progress", 70),
        Scenario(name="question", title="a question", operation="confirm", seconds=0),
        Scenario(
            name="large", title="a result of 300 kB", operation="listing", arguments={"kilobytes": 300}, seconds=3
        ),
        _nap("cancel", "a cancel", 60, then="cancel"),
        _nap("long", "5 minutes, progress every 2 s", 300, "work"),
    )
}
LONG = ("long",)
"""Those that run only when asked for."""
QUICK = ("short", "progress")
"""Those of a quick look."""
