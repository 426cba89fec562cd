"""`POST /callbacks/{token}`: somebody outside settles a task, once (docs/upstream-jobs.md).

Whoever calls has no account here and no host name that we know: the token is all. It is never part of an answer, and
an unknown one gets the same answer whatever is wrong with it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, cast

from starlette.types import ASGIApp, Receive, Scope, Send

from raincheck.callbacks import CALLBACK_PATH, CallbackEnd, Callbacks
from raincheck.errors import OperationFailed, ResultTooLarge, StoreError
from raincheck.operations.foreign_json import BeyondBounds, NotJson, read_json
from raincheck.task import Outcome, Progress, TaskError

__all__ = ["with_callbacks"]

logger = logging.getLogger(__name__)

_BODY_SECONDS = 30.0
_ENVELOPE_BYTES = 16 * 1024
_LONGEST_TEXT = 2000
_LARGEST_DETAILS = 8 * 1024
_KEYS = ("status", "result", "error", "progress")
_STATUSES = ("completed", "failed", "running")
_ERROR_KEYS = ("message", "code", "retryable", "details")


class _Refused(Exception):
    """The call is not taken; nothing was changed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _Call(NamedTuple):
    """What a call says: the task's outcome, or only how far it is."""

    outcome: Outcome | None
    progress: Progress | None


def with_callbacks(app: ASGIApp, callbacks: Callable[[], Awaitable[Callbacks]], *, max_result_bytes: int) -> ASGIApp:
    """The application, and beside it the path of the callbacks: for whoever has a token, under whatever host name.

    Args:
        callbacks: Those of the running service.
        max_result_bytes: The largest result that is read.
    """

    async def whole(scope: Scope, receive: Receive, send: Send) -> None:
        path = _own_path(scope) if scope["type"] == "http" else ""
        if not path.startswith(CALLBACK_PATH):
            await app(scope, receive, send)
            return
        try:
            if scope["method"] != "POST":
                raise _Refused(405, "a callback is a POST")
            body = await _read(receive, max_result_bytes + _ENVELOPE_BYTES)
            status, answer = await _take(await callbacks(), path.removeprefix(CALLBACK_PATH), body)
        except _Refused as refused:
            status, answer = refused.status, {"status": "refused", "message": refused.message}
        await _answer(send, status, answer)

    return whole


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


async def _take(callbacks: Callbacks, token: str, body: bytes) -> tuple[int, Mapping[str, Any]]:
    try:
        # First: who has no token learns nothing of what a body must be.
        end = await callbacks.look_up(token)
        if end == "taken":
            call = _parsed(body)
            if call.outcome is not None:
                end = await callbacks.settle(token, call.outcome)
            elif call.progress is not None:
                end = await callbacks.report(token, call.progress)
    except ResultTooLarge as error:
        raise _Refused(413, error.message) from None
    except StoreError as error:
        logger.warning("a callback could not be stored: %s", error.message)
        raise _Refused(503, "the task store is not available; call again") from None
    return _ANSWERS[end]


_ANSWERS: Mapping[CallbackEnd, tuple[int, Mapping[str, Any]]] = {
    "taken": (200, {"status": "taken"}),
    "over": (410, {"status": "over", "message": "the task is settled already; this address is used up"}),
    "unknown": (404, {"status": "unknown", "message": "there is no such callback"}),
}


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


async def _answer(send: Send, status: int, answer: Mapping[str, Any]) -> None:
    body = json.dumps(answer).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *([(b"allow", b"POST")] if status == 405 else []),
        # What was not read to its end cannot be followed by another request.
        *([(b"connection", b"close")] if status in (405, 408, 413) else []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
