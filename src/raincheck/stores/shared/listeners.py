"""The listeners of a store's changes: one list for every store."""

from __future__ import annotations

import logging
from collections.abc import Callable

from raincheck.domain.task import Task
from raincheck.ports.task_store import Listener

logger = logging.getLogger(__name__)


class Listeners:
    """The subscriptions of one store. Only used on the store's event loop."""

    def __init__(self) -> None:
        self._listeners: dict[object, Listener] = {}

    def __len__(self) -> int:
        return len(self._listeners)

    def add(self, listener: Listener) -> Callable[[], None]:
        """Add a subscription; returns the function that ends it, which may be called more than once."""
        token = object()
        self._listeners[token] = listener
        return lambda: self._listeners.pop(token, None) and None

    def tell(self, task: Task | str | None) -> None:
        """Call every listener with a changed task: the task itself, its ref (another process changed it), or None (any
        may have changed)."""
        for listener in tuple(self._listeners.values()):
            try:
                listener(task)
            except Exception:  # boundary: one listener's bug must not take a change from the others
                logger.exception("a listener to the task store failed")

    def clear(self) -> None:
        """End every subscription."""
        self._listeners.clear()
