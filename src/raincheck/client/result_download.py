"""Large results: recognised by what stands in their place, and fetched whole, in pages, by `resources/read`."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from raincheck.client.errors import BadAnswer
from raincheck.client.models import TaskHandle
from raincheck.client.policy import PollingPolicy
from raincheck.client.retries import INVALID_PARAMS, rpc_error, with_retry
from raincheck.domain.result_body import call_result, plain_value, result_uri
from raincheck.domain.unicode_text import well_formed
from raincheck.errors import TaskNotFound

_T = TypeVar("_T")

_PAGE = 1024 * 1024


class LargeAnswer:
    """A large result of which the preview is here.

    Attributes:
        resource: Where the whole can be read.
    """

    def __init__(self, preview: Mapping[str, Any]) -> None:
        self.resource: str = preview["resource"]
        self._size: int = preview["bytes"]
        self._form = str(preview["form"])
        self._shape: str | None = preview.get("shape")
        self._media_type = str(preview.get("media_type"))
        self._sha256 = preview.get("sha256")

    async def value(self, session: Any, policy: PollingPolicy, handle: TaskHandle | None) -> Any:
        """The operation's value. Raises as `call_result` does."""
        return await self._read(plain_value, session, policy, handle)

    async def call_result(self, session: Any, policy: PollingPolicy, handle: TaskHandle | None) -> dict[str, Any]:
        """What the call would have returned, were it small.

        Raises:
            TaskNotFound: The result is not kept any more.
            ConnectionLost: The server does not answer.
            BadAnswer: What it answers is not the result.
        """
        return await self._read(call_result, session, policy, handle)

    async def _read(
        self,
        read: Callable[[str, str | None, str, bytes], _T],
        session: Any,
        policy: PollingPolicy,
        handle: TaskHandle | None,
    ) -> _T:
        # Pages of one length are the whole, wherever their borders fall.
        pages = [
            await self._page(session, policy, handle, f"{self.resource}?offset={offset}&length={_PAGE}")
            for offset in range(0, self._size, _PAGE)
        ]
        data = b"".join(pages)
        if len(data) != self._size or hashlib.sha256(data).hexdigest() != self._sha256:
            raise BadAnswer("the pages of the result are not the whole", handle=handle)
        try:
            return read(self._form, self._shape, self._media_type, data)
        except ValueError as error:
            raise BadAnswer(f"the result cannot be read: {error}", handle=handle) from error

    async def _page(self, session: Any, policy: PollingPolicy, handle: TaskHandle | None, uri: str) -> bytes:
        async def send() -> object:
            try:
                async with asyncio.timeout(policy.answer_seconds):
                    return await session.read_resource(uri)
            except Exception as error:
                if rpc_error(error, "code") == INVALID_PARAMS:
                    raise TaskNotFound(str(rpc_error(error, "message"))) from error
                raise

        return _body(await with_retry(send, "resources/read", retries=policy.call_retries, handle=handle), handle)


def large_answer(value: Any, session: Any, handle: TaskHandle | None) -> LargeAnswer | None:
    """The large result that this value stands for; None where it is a value like any other, or this session cannot read
    resources."""
    if not isinstance(value, Mapping) or not callable(getattr(session, "read_resource", None)):
        return None
    given = cast("Mapping[str, Any]", value)
    resource = given.get("resource")
    if given.get("truncated") is not True or not isinstance(resource, str) or not isinstance(given.get("form"), str):
        return None
    # Another server's preview may be the very value of a task of this one.
    ours = resource.startswith("raincheck://tasks/") and (handle is None or resource == result_uri(handle.task_ref))
    return LargeAnswer(given) if ours and isinstance(given.get("bytes"), int) else None


def _body(answer: object, handle: TaskHandle | None) -> bytes:
    """The bytes of a page, whichever SDK read it."""
    contents: Any = cast(Any, answer) if isinstance(answer, list) else getattr(answer, "contents", None)
    if isinstance(answer, Mapping):
        contents = cast("Mapping[str, Any]", answer).get("contents")
    parts = cast("list[Any]", contents) if isinstance(contents, list) else []
    if len(parts) != 1:
        raise BadAnswer("the server's answer is no page of a result", handle=handle)
    part = parts[0]
    text, blob = (part.get(each) if isinstance(part, dict) else getattr(part, each, None) for each in ("text", "blob"))  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if isinstance(text, str):
        return well_formed(text).encode()
    try:
        return base64.b64decode(blob or "", validate=True)  # pyright: ignore[reportUnknownArgumentType]
    except (binascii.Error, TypeError) as error:
        raise BadAnswer("the server's answer is no page of a result", handle=handle) from error
