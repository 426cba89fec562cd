"""What was measured, kept in a file: a page may be written from several runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.agents.runs import Outcome

__all__ = ["Outcomes"]


class Outcomes:
    """The latest outcome of each host, transport, scenario and side ("now" or "before")."""

    def __init__(self, file: Path) -> None:
        self._file = file
        found: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
        self._all = {_key(outcome): outcome for outcome in (Outcome.from_json(each) for each in found)}

    def add(self, outcome: Outcome) -> None:
        """Keep it, in place of the one before."""
        self._all[_key(outcome)] = outcome
        self._file.parent.mkdir(exist_ok=True)
        self._file.write_text(json.dumps([each.as_json() for each in self._all.values()], indent=1))

    def find(self, host: str, transport: str, scenario: str, side: str) -> Outcome | None:
        """The outcome, where there is one."""
        return self._all.get((host, transport, scenario, side))

    def all(self) -> list[Outcome]:
        """Every outcome."""
        return list(self._all.values())


def _key(outcome: Outcome) -> tuple[str, str, str, str]:
    return outcome.host, outcome.transport, outcome.scenario, outcome.side
