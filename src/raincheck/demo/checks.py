"""What the demo demands: each promise is checked, and the first that is broken ends it by name."""

from __future__ import annotations

from collections.abc import Iterable


class DemoFailed(Exception):
    """A promise did not hold.

    Attributes:
        log: The last lines of the process that it concerns.
    """

    def __init__(self, message: str, *, log: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.log = tuple(log)


def demand(holds: bool, otherwise: str) -> None:
    """Raise unless it holds.

    Raises:
        DemoFailed: It does not.
    """
    if not holds:
        raise DemoFailed(otherwise)
