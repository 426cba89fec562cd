"""Results in pages by `resolve_task_status`, for the many clients that have no tool to read resources with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from raincheck.domain.result_body import result_uri
from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import CallError, InvalidParameters, TaskNotFound
from raincheck.tasks.result_pages import PAGE_LENGTH, read_page
from raincheck.tasks.results import Results, StoredResult

LONGEST_MODEL_PAGE = 64 * 1024
"""The longest page of the tool, in bytes: it goes to a model."""

_DIGITS = re.compile(r"\s*[0-9]{1,16}\s*")


class PageRequest(NamedTuple):
    """Which page a call asks for, in bytes."""

    offset: int = 0
    length: int = PAGE_LENGTH


def page_request(arguments: Mapping[str, Any]) -> PageRequest | None:
    """The page that `result_offset` and `result_length` name; None where the call asks for none.

    Raises:
        InvalidParameters: One of them is no whole number within its bounds.
    """
    offset, length = arguments.get("result_offset"), arguments.get("result_length")
    if offset is None and length is None:
        return None
    return PageRequest(
        0 if offset is None else _whole("result_offset", offset, 0),
        PAGE_LENGTH if length is None else _whole("result_length", length, 1, LONGEST_MODEL_PAGE),
    )


class ResultPages:
    """Answers for results in pages.

    Args:
        results: Where they are.
    """

    def __init__(self, results: Results) -> None:
        self._results = results

    async def of_task(self, task: Task, asked: PageRequest) -> dict[str, Any] | None:
        """The page of the task's result; None where it has none, not yet or never.

        Raises:
            InvalidParameters: It begins beyond the end.
            TaskNotFound: The result is not kept any more.
            StoreError: It cannot be read.
        """
        try:
            stored = self._results.of(task)
        except CallError:
            return None
        return await _answer(stored, task.status, asked)

    async def of_request(self, task_ref: str, scope: str, asked: PageRequest) -> dict[str, Any] | None:
        """The page of a result that was put away for a call without a task; None where there is none of that scope.

        Raises as `of_task` does.
        """
        try:
            stored = await self._results.of_request(task_ref, scope)
        except TaskNotFound:
            return None
        return await _answer(stored, TaskStatus.COMPLETED, asked)


async def _answer(stored: StoredResult, status: TaskStatus, asked: PageRequest) -> dict[str, Any]:
    answer: dict[str, Any] = {"task_ref": stored.task_ref, "status": status.value, "media_type": stored.media_type}
    if stored.form == "binary":
        resource = result_uri(stored.task_ref)
        told = f"This result is no text: it is {stored.media_type}. Read `resource` with resources/read."
        return {**answer, "total": stored.size, "resource": resource, "next_step": told}
    page = await read_page(stored, asked.offset, asked.length)
    answer |= {
        "result_page": page.data.decode(),
        "offset": asked.offset,
        "length": len(page.data),
        "total": stored.size,
    }
    if page.next_offset is not None:
        length = "" if asked.length == PAGE_LENGTH else f" and result_length {asked.length}"
        answer["next_step"] = f"For more call resolve_task_status with result_offset {page.next_offset}{length}."
    return answer


def _whole(key: str, value: Any, least: int, most: int | None = None) -> int:
    # Models write numbers as texts and as floats; what can mean one number only is taken.
    digits = isinstance(value, str) and _DIGITS.fullmatch(value)
    number: Any = int(value) if digits or (isinstance(value, float) and value.is_integer()) else value
    whole = isinstance(number, int) and not isinstance(number, bool)
    if not whole or number < least or (most is not None and number > most):
        upto = "" if most is None else f" to {most}"
        raise InvalidParameters(f"{key} must be a whole number of bytes from {least}{upto}.")
    return number
