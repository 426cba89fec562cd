"""Exceptions as reported: text for the caller, type and source line for the operator."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import PurePath

from raincheck.domain.task import Raised

_OURS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
"""The package's folder."""
_LIBRARIES = tuple(os.path.join(sysconfig.get_path(each), "") for each in ("stdlib", "platstdlib"))
_INSTALLED = {"site-packages", "dist-packages"}


class RaisedElsewhere(Exception):
    """The cause of an exception that was raised in another process; its text is the traceback there.

    Attributes:
        raised: What was raised, and where.
    """

    def __init__(self, stack: str, raised: Raised) -> None:
        super().__init__(f"\n{stack}")
        self.raised = raised


def alone(error: BaseException) -> BaseException:
    """The exception itself where it is the only one of its group, as a task group wraps it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        error = error.exceptions[0]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return error  # pyright: ignore[reportUnknownVariableType]


def text_of(error: BaseException) -> str:
    """What the exception says; of one whose own `__str__` fails what it was made with, of a silent one its type."""
    for said in (str, BaseException.__str__):
        try:
            return said(error).strip() or type(error).__name__
        except Exception:  # noqa: BLE001, S112  the operation's own code, and its error has to be told all the same
            continue
    return type(error).__name__


def raised_by(error: BaseException) -> Raised:
    """What was raised, and the innermost line of the user's own that it came through; where there is none, of any
    library that is not raincheck."""
    inner = alone(error)
    told: BaseException | None = inner
    seen: set[int] = set()
    while told is not None and id(told) not in seen:
        seen.add(id(told))
        if isinstance(told, RaisedElsewhere):
            return told.raised
        files = _files(told) or _files(error)
        if (at := next((place for file, place in files if _is_users(file)), None)) is not None:
            return Raised(_type_of(told), at)
        # Raised by raincheck or another library because of something else, which may be the user's.
        told = told.__cause__
    files = _files(inner)
    return Raised(_type_of(inner), None if not files or files[0][0].startswith(_OURS) else files[0][1])


def by_us_alone(error: BaseException) -> bool:
    """Whether raincheck raised it with no other code between: its traceback tells an operator nothing."""
    inner = alone(error)
    if isinstance(inner.__cause__, RaisedElsewhere) or raised_by(inner).at is not None:
        return False
    return all(file.startswith((_OURS, *_LIBRARIES)) for file, _ in _files(inner))


def stack_of(error: BaseException, *, texts: bool) -> str:
    """The traceback; without `texts` the exceptions are named by their types alone."""
    if texts:
        return "".join(traceback.format_exception(error)).rstrip("\n")
    told: list[str] = []
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        # What another process told was told without texts there.
        text = str(each) if isinstance(each, RaisedElsewhere) else ": (withheld)"
        frames = "".join(traceback.format_tb(each.__traceback__))
        told.append(f"Traceback (most recent call last):\n{frames}{_type_of(each)}{text}")
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return "\n".join(reversed(told))


def _files(error: BaseException) -> list[tuple[str, str]]:
    """The file and `file:line` of each frame, the innermost first."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    return [(os.path.abspath(file), f"{file}:{line}") for file, line in reversed(frames)]


def _is_users(file: str) -> bool:
    if file.startswith((_OURS, *_LIBRARIES)) or PurePath(file).name.startswith("<"):
        return False
    return not _INSTALLED & set(PurePath(file).parts)


def _type_of(error: BaseException) -> str:
    kind = type(error)
    return (
        kind.__qualname__
        if kind.__module__ in ("builtins", "raincheck.errors")
        else f"{kind.__module__}.{kind.__qualname__}"
    )
