"""Validation of parameters and answers, off the event loop where it is costly.

Small parameters are checked at once, on the event loop; what is large, or turns out to be costly, is checked in a
thread, within a bound of time, few at once and of one caller one after the other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from raincheck.domain.task import InputRequest
from raincheck.errors import InvalidParameters, PayloadTooLarge
from raincheck.operations.bounded_work import LONGEST_WORK_SECONDS, TooMuchWork, bounded_work
from raincheck.operations.operation import Operation
from raincheck.operations.validation_messages import Problem, invalid_parameters, no_longer_fitting

LARGE_BYTES = 64 * 1024
"""Parameters of more bytes of JSON are checked in a thread."""

_T = TypeVar("_T")

_AT_ONCE = 2
_ON_THE_LOOP_SECONDS = 0.02


class ParameterChecks:
    """Checks parameters and answers for the callers of one registry.

    Args:
        max_bytes: The largest parameters, or answers, of a call, as JSON.
        longest_seconds: How long one check may take, in seconds of the processor.
    """

    def __init__(self, max_bytes: int, *, longest_seconds: float = LONGEST_WORK_SECONDS) -> None:
        self._max_bytes = max_bytes
        self._longest_seconds = longest_seconds
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="raincheck-validation")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def checked(self, operation: Operation, arguments: Mapping[str, Any], *, scope: str) -> dict[str, Any]:
        """The arguments of a caller as they are to be stored (`Executor.validate`).

        Raises:
            InvalidParameters: They do not fit, or the check takes too long.
            PayloadTooLarge: They are too large.
        """
        if self._size("parameters", arguments) <= LARGE_BYTES:
            try:
                with bounded_work(_ON_THE_LOOP_SECONDS):
                    return operation.executor.validate(arguments)
            except TooMuchWork:
                pass
        turn = self._turns.setdefault(scope, asyncio.Lock())
        async with turn:
            check = partial(_checked, operation, arguments, self._longest_seconds)
            return await asyncio.get_running_loop().run_in_executor(self._threads, check)

    def answers(
        self, asked: Iterable[InputRequest], responses: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """What is answered to these questions, by their keys (`checked_answer`); other keys are passed over.

        Raises:
            InvalidParameters: One is no answer to its question.
            PayloadTooLarge: They are too large together.
        """
        self._size("answers", responses)
        # With it comes the JSON Schema library, which most servers never need.
        from raincheck.operations.elicitation_answers import checked_answer

        return {
            each.key: checked_answer(each.key, each.method, each.params, responses[each.key])
            for each in asked
            if each.key in responses
        }

    def answered(self, inputs: tuple[InputRequest, ...]) -> tuple[InputRequest, ...]:
        """The questions that come with their answers, checked as by `answers`."""
        answers = self.answers(inputs, {each.key: each.response for each in inputs if each.response is not None})
        return tuple(replace(each, response=answers.get(each.key)) for each in inputs)

    def _size(self, what: str, given: Mapping[str, Any]) -> int:
        try:
            size = len(json.dumps(given, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidParameters(f"The {what} are not JSON: {error}") from error
        if size > self._max_bytes:
            raise PayloadTooLarge(
                f"The {what} are {size} bytes as JSON; at most {self._max_bytes} are allowed "
                "(max_parameters_bytes). Pass a reference to large data instead.",
                details={"bytes": size, "max_parameters_bytes": self._max_bytes},
            )
        return size


async def still_fitting(use: Callable[[Mapping[str, Any]], _T], arguments: Mapping[str, Any]) -> _T:
    """What is made of stored parameters, checked once more: the operation may have changed since they were accepted.

    Args:
        use: Checks them, and makes something of them; it may run twice, and in a thread.
        arguments: As they are stored.

    Raises:
        OperationFailed: They do not fit it as it is now.
    """
    try:
        try:
            with bounded_work(_ON_THE_LOOP_SECONDS):
                return use(arguments)
        except TooMuchWork:
            return await asyncio.to_thread(use, arguments)
    except InvalidParameters as error:
        problem = str(error)
    except TooMuchWork:
        problem = "they take too long to check"
    raise no_longer_fitting(problem)


def _checked(operation: Operation, arguments: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    try:
        with bounded_work(seconds):
            return operation.executor.validate(arguments)
    except TooMuchWork:
        problem = f"takes more than {seconds:g} s to check; send less, or nest it less"
        raise invalid_parameters(operation.operation_type, [Problem(parameter="(all)", problem=problem)]) from None
