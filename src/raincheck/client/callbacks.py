"""Callbacks of either colour: plain functions and coroutine functions."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["settled"]

_T = TypeVar("_T")


async def settled(given: Awaitable[_T] | _T) -> _T:
    """What a callback gave, awaited where it is awaitable."""
    if inspect.isawaitable(given):
        return await given
    return given
