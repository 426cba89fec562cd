"""Tool functions whose types are checked in ways of their own, for servers of either host."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

from pydantic import Field

__all__ = ["at", "by_re", "count", "letters", "numbers", "once", "price", "sure"]


def count(n: int) -> str:
    return repr(n)


def numbers(numbers: list[int]) -> str:
    return repr(numbers)


def sure(sure: bool) -> str:
    return repr(sure)


def at(at: datetime) -> str:
    return repr(at)


def once(once: set[int]) -> str:
    return repr(once)


def price(price: Annotated[float, Field(multiple_of=0.01)]) -> str:
    return repr(price)


def letters(text: Annotated[str, Field(pattern=r"^\p{L}+$")]) -> str:
    return repr(text)


def by_re(text: Annotated[str, Field(pattern=re.compile("^[a-z]+$", re.IGNORECASE))]) -> str:
    return repr(text)
