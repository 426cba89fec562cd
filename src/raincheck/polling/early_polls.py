"""Early polls: detects callers that ask before the hinted time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

_MOST = 10_000


class Pacing:
    """Remembers when each task may be asked for again; of very many tasks, only the last ones answered for."""

    def __init__(self) -> None:
        self._due: OrderedDict[str, float] = OrderedDict()

    def answered(self, task_ref: str, poll_after_seconds: float | None) -> None:
        """The task was answered for, with that hint; None: there is nothing more to ask."""
        self._due.pop(task_ref, None)
        if poll_after_seconds is not None:
            self._due[task_ref] = asyncio.get_running_loop().time() + poll_after_seconds
            if len(self._due) > _MOST:
                self._due.popitem(last=False)

    def early_by(self, task_ref: str) -> float:
        """How many seconds too early a question for that task is now; 0 where it is in time."""
        due = self._due.get(task_ref)
        return 0.0 if due is None else max(0.0, due - asyncio.get_running_loop().time())
