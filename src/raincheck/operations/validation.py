"""Checking a call's parameters without holding up everybody else.

Small parameters are checked at once, on the event loop; what is large, or turns out to be costly, is checked in a
thread, within a bound of time, few at once and of one caller one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from raincheck.operations.operation import Operation
from raincheck.operations.problems import Problem, invalid_parameters
from raincheck.operations.schema_keywords import LONGEST_WORK_SECONDS, TooMuchWork, bounded_work

__all__ = ["LARGE_BYTES", "ParameterChecks"]

LARGE_BYTES = 64 * 1024
"""Parameters of more bytes of JSON are checked in a thread."""

_AT_ONCE = 2
_ON_THE_LOOP_SECONDS = 0.02


class ParameterChecks:
    """Checks parameters for the callers of one registry.

    Args:
        longest_seconds: How long one check may take, in seconds of the processor.
    """

    def __init__(self, *, longest_seconds: float = LONGEST_WORK_SECONDS) -> None:
        self._longest_seconds = longest_seconds
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="raincheck-validation")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def checked(
        self, operation: Operation, arguments: Mapping[str, Any], *, scope: str, size: int
    ) -> dict[str, Any]:
        """The arguments as they are to be stored (`Executor.validate`).

        Args:
            operation, arguments, scope: Which parameters, of whom.
            size: Their bytes as JSON.

        Raises:
            InvalidParameters: They do not fit, or the check takes too long.
        """
        if size <= LARGE_BYTES:
            try:
                with bounded_work(_ON_THE_LOOP_SECONDS):
                    return operation.executor.validate(arguments)
            except TooMuchWork:
                pass
        turn = self._turns.setdefault(scope, asyncio.Lock())
        async with turn:
            check = partial(_checked, operation, arguments, self._longest_seconds)
            return await asyncio.get_running_loop().run_in_executor(self._threads, check)


def _checked(operation: Operation, arguments: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    try:
        with bounded_work(seconds):
            return operation.executor.validate(arguments)
    except TooMuchWork:
        problem = f"takes more than {seconds:g} s to check; send less, or nest it less"
        raise invalid_parameters(operation.operation_type, [Problem(parameter="(all)", problem=problem)]) from None
