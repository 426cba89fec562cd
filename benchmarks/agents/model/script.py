"""The script that stands in the user's prompt, without a quotation mark that a host might change."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.agents.model.conversation import Item

__all__ = ["CANCELLED", "DONE", "FAILED", "WAITING", "Script", "prompt", "script_of"]

DONE, CANCELLED, FAILED, WAITING = "BENCH-DONE", "BENCH-CANCELLED", "BENCH-FAILED", "BENCH-WAITING"
"""What the model's last text begins with: the result follows as its digest; what went wrong; a notification is due."""

_SCRIPT = re.compile(r"BENCH\[(\w+)((?: \w+=[\d.]+)*) then=(\w+)\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """What the model is to call; `then`: what it does once it has a ticket, "wait" or "cancel"."""

    operation: str
    arguments: Mapping[str, float]
    then: str


def prompt(script: Script) -> str:
    """What the user says."""
    given = "".join(f" {name}={value:g}" for name, value in script.arguments.items())
    call = f"BENCH[{script.operation}{given} then={script.then}]"
    return f"Call the tool {script.operation} and tell me what it returned. {call}"


def script_of(items: Sequence[Item]) -> tuple[Script, int] | None:
    """The script of a conversation, and where in it it stands."""
    for index, item in enumerate(items):
        if item.kind == "user" and (found := _SCRIPT.search(item.text)):
            pairs = (pair.split("=") for pair in found[2].split())
            given = {name: float(value) for name, value in pairs}
            return Script(operation=found[1], arguments=given, then=found[3]), index
    return None
