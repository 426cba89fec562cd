"""`POST /callbacks/{token}`: a task is settled from outside, once (docs/upstream-jobs.md).

The caller has no account here and no known host name: the token is all. It is looked up before anything of
the body is read. It is never part of an answer, and an unknown one gets the same answer whatever is wrong with it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, cast

from starlette.types import ASGIApp, Receive, Scope, Send

from raincheck.callbacks.tokens import CALLBACK_PATH, CallbackEnd, CompletionTokens
from raincheck.domain.task import Outcome, Progress, TaskError
from raincheck.errors import OperationFailed, ResultTooLarge, StoreError
from raincheck.mcp.server.body_budget import BodyBudget
from raincheck.mcp.server.plain_responses import json_answer
from raincheck.operations.untrusted_json import BeyondBounds, NotJson, read_json
from raincheck.runtime.listening import address_key

logger = logging.getLogger(__name__)

_BODY_SECONDS = 30.0
_ENVELOPE_BYTES = 16 * 1024
_LONGEST_TEXT = 2000
_LARGEST_DETAILS = 8 * 1024
_KEYS = ("status", "result", "error", "progress")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_STATUSES = ("completed", "failed", "running")
_ERROR_KEYS = ("message", "code", "retryable", "details")


_ANSWERS: Mapping[CallbackEnd, tuple[int, Mapping[str, Any]]] = {
    "accepted": (200, {"status": "taken"}),
    "settled": (410, {"status": "over", "message": "the task is settled already; this address is used up"}),
    "unknown": (404, {"status": "unknown", "message": "there is no such callback"}),
}
_CLOSE = (b"connection", b"close")
_HEADERS: Mapping[int, list[tuple[bytes, bytes]]] = {
    405: [(b"allow", b"POST")],
    429: [(b"retry-after", b"10")],
    503: [(b"retry-after", b"1")],
}

_UNKNOWN_AT_ONCE = 20.0
_UNKNOWN_PER_SECOND = 0.2
_MOST_STRANGERS = 4096


class _Refused(Exception):
    """The call is not taken; nothing was changed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.answer: Mapping[str, Any] = {"status": "refused", "message": message}

    @classmethod
    def as_told(cls, end: CallbackEnd) -> _Refused:
        """What becomes of a call with such a token."""
        status, answer = _ANSWERS[end]
        refused = cls(status, answer["message"])
        refused.answer = answer
        return refused


class _Call(NamedTuple):
    """What a call says: the task's outcome, or only how far it is."""

    outcome: Outcome | None
    progress: Progress | None


def with_callbacks(
    app: ASGIApp, callbacks: Callable[[], Awaitable[CompletionTokens]], *, max_result_bytes: int, budget: BodyBudget
) -> ASGIApp:
    """The application, and beside it the path of the callbacks: for any holder of a token, under any host name.

    Args:
        app: Yours.
        callbacks: Those of the running service.
        max_result_bytes: The largest result that is read.
        budget: Of the bodies under way.
    """
    largest = max_result_bytes + _ENVELOPE_BYTES
    answered = budget.within(_Endpoint(callbacks, largest).answer, largest=largest)

    async def whole(scope: Scope, receive: Receive, send: Send) -> None:
        called = scope["type"] == "http" and _own_path(scope).startswith(CALLBACK_PATH)
        await (answered if called else app)(scope, receive, send)

    return whole


class _Endpoint:
    """Answers what is sent to the path of the callbacks."""

    def __init__(self, callbacks: Callable[[], Awaitable[CompletionTokens]], largest_body: int) -> None:
        self._callbacks = callbacks
        self._largest_body = largest_body
        self._strangers = _Strangers()
        self._reading: set[str] = set()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""
        token = _own_path(scope).removeprefix(CALLBACK_PATH)
        address = address_key(scope["client"][0]) if scope.get("client") else ""
        read = False
        try:
            if scope["method"] != "POST":
                raise _Refused(405, "a callback is a POST")
            callbacks = await self._known(token, address)
            with self._alone(token):
                body = await _read(receive, self._largest_body)
                read = True
                status, answer = await _take(callbacks, token, body)
        except _Refused as refused:
            status, answer = refused.status, refused.answer
        # What was not read to its end cannot be followed by another request.
        await json_answer(send, status, answer, [*_HEADERS.get(status, ()), *([] if read else [_CLOSE])])

    async def _known(self, token: str, address: str) -> CompletionTokens:
        """Those that the token is good for; who has none learns nothing of what a body must be."""
        if not _TOKEN.fullmatch(token):
            raise _Refused.as_told("unknown")
        callbacks = await self._callbacks()
        async with self._strangers.looking(address):
            with _store_errors():
                end = await callbacks.look_up(token)
            if end == "unknown":
                self._strangers.count(address)
        if end != "accepted":
            raise _Refused.as_told(end)
        return callbacks

    @contextmanager
    def _alone(self, token: str) -> Generator[None]:
        """One body of a token at a time: a token buys no more than one."""
        if token in self._reading:
            raise _Refused(503, "another call with this token is being read; call again")
        self._reading.add(token)
        try:
            yield
        finally:
            self._reading.discard(token)


class _Strangers:
    """How often each address came with an unknown token: each time is a question to the store."""

    def __init__(self) -> None:
        # Level and time of each address's bucket.
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._looking: Counter[str] = Counter()
        self._one_ended = asyncio.Event()

    @asynccontextmanager
    async def looking(self, address: str) -> AsyncGenerator[None]:
        """Around the look-up of a token of which nothing is known yet: as many at once as may turn out unknown.

        Raises:
            _Refused: Too many have.
        """
        while self._level(address) - self._looking[address] < 1.0:
            if not self._looking[address]:
                del self._looking[address]
                raise _Refused(429, "too many unknown tokens from this address; call again later")
            await self._one_ended.wait()
        self._looking[address] += 1
        try:
            yield
        finally:
            self._looking[address] -= 1
            if not self._looking[address]:
                del self._looking[address]
            self._one_ended.set()
            self._one_ended = asyncio.Event()

    def count(self, address: str) -> None:
        """The token was unknown."""
        level = self._level(address) - 1.0
        self._levels.pop(address, None)
        self._levels[address] = (level, time.monotonic())
        if len(self._levels) > _MOST_STRANGERS:
            self._levels.popitem(last=False)

    def _level(self, address: str) -> float:
        level, at = self._levels.get(address, (_UNKNOWN_AT_ONCE, 0.0))
        return min(_UNKNOWN_AT_ONCE, level + (time.monotonic() - at) * _UNKNOWN_PER_SECOND)


def _own_path(scope: Scope) -> str:
    # Where the application is mounted under a path, that path is a part of both.
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path") or "")


async def _read(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise _Refused(400, "the body is not complete")
                body += message.get("body", b"")
                if len(body) > limit:
                    raise _Refused(413, f"the body is larger than {limit} bytes")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise _Refused(408, f"the body did not come within {_BODY_SECONDS:g} s") from None


async def _take(callbacks: CompletionTokens, token: str, body: bytes) -> tuple[int, Mapping[str, Any]]:
    call = _parsed(body)
    end: CallbackEnd = "accepted"
    try:
        with _store_errors():
            if call.outcome is not None:
                end = await callbacks.settle(token, call.outcome)
            elif call.progress is not None:
                end = await callbacks.report(token, call.progress)
    except ResultTooLarge as error:
        raise _Refused(413, error.message) from None
    return _ANSWERS[end]


@contextmanager
def _store_errors() -> Generator[None]:
    try:
        yield
    except StoreError as error:
        logger.warning("a callback could not be looked up or stored: %s", error.message)
        raise _Refused(503, "the task store is not available; call again") from None


def _parsed(body: bytes) -> _Call:
    try:
        found = read_json(body)
    except BeyondBounds as error:
        raise _Refused(400, f"the body is {error}") from None
    except NotJson:
        raise _Refused(400, "the body is not JSON") from None
    if not isinstance(found, dict):
        raise _Refused(400, 'the body must be a JSON object with "status"')
    call = cast("dict[str, Any]", found)
    _check_keys(call, _KEYS, "the body")
    status = call.get("status")
    if status not in _STATUSES:
        raise _Refused(400, f'"status" must be one of {", ".join(_STATUSES)}')
    for key, only in (("result", "completed"), ("error", "failed"), ("progress", "running")):
        if key in call and status != only:
            raise _Refused(400, f'"{key}" goes with "status": "{only}" only')
    match status:
        case "completed":
            return _Call(Outcome(value=call.get("result")), None)
        case "failed":
            return _Call(Outcome(error=_error(call.get("error"))), None)
        case _:
            return _Call(None, _progress(call.get("progress")))


def _error(given: Any) -> TaskError:
    if not isinstance(given, dict):
        raise _Refused(400, '"error" must be an object with "message"')
    error = cast("dict[str, Any]", given)
    _check_keys(error, _ERROR_KEYS, '"error"')
    message, code = error.get("message"), error.get("code")
    retryable, details = error.get("retryable", False), error.get("details", {})
    if not (isinstance(message, str) and message.strip()):
        raise _Refused(400, '"error.message" must be a text, not empty')
    if not (code is None or isinstance(code, str)):
        raise _Refused(400, '"error.code" must be a text')
    if not isinstance(retryable, bool):
        raise _Refused(400, '"error.retryable" must be true or false')
    if not isinstance(details, dict) or len(json.dumps(details)) > _LARGEST_DETAILS:
        raise _Refused(400, f'"error.details" must be an object of at most {_LARGEST_DETAILS} bytes')
    told = cast("dict[str, Any]", details) | ({} if code is None else {"code": code[:80]})
    return TaskError(
        code=OperationFailed.code, message=message.strip()[:_LONGEST_TEXT], retryable=retryable, details=told
    )


def _progress(given: Any) -> Progress:
    if not isinstance(given, dict):
        raise _Refused(400, '"progress" must be an object with "fraction", "message" or both')
    progress = cast("dict[str, Any]", given)
    _check_keys(progress, ("fraction", "message"), '"progress"')
    fraction, message = progress.get("fraction"), progress.get("message")
    number = isinstance(fraction, int | float) and not isinstance(fraction, bool) and math.isfinite(fraction)
    if not (fraction is None or (number and 0 <= fraction <= 1)):
        raise _Refused(400, '"progress.fraction" must be a number from 0 to 1')
    if not (message is None or isinstance(message, str)):
        raise _Refused(400, '"progress.message" must be a text')
    return Progress(fraction=None if fraction is None else float(fraction), message=message and message[:500])


def _check_keys(given: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    unknown = next((key for key in given if key not in allowed), None)
    if unknown is not None:
        raise _Refused(400, f"{where} has an unknown key {unknown[:40]!a}; allowed: {', '.join(allowed)}")
