"""Our errors as JSON-RPC errors, and JSON-RPC errors as outcomes.

An operation that raises the SDK's `MCPError` ends in that JSON-RPC error, as the call itself would have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from raincheck.domain.caller import Caller
from raincheck.domain.task import Outcome, TaskError
from raincheck.errors import CallError, OperationFailed, RaincheckError, StoreError, TaskNotFound
from raincheck.mcp.auth.restored_caller import restored_caller
from raincheck.mcp.wire.store_errors import for_callers
from raincheck.operations.context import TaskContext
from raincheck.operations.error_details import LARGEST_DATA, plain_value
from raincheck.operations.operation import CancelsUpstream, Executor, FailedAs


def rpc_error_of(error: RaincheckError, code: int) -> MCPError:
    """The error as a JSON-RPC error of that code; `data` has our own code, `retryable` and the details."""
    told = TaskError.from_exception(error).public()
    return MCPError(code, told.pop("message"), told)


async def rpc_errors(answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The answer, with our errors as JSON-RPC errors: -32602 for what the caller got wrong, -32603 for the rest.

    What may succeed later, unchanged, is no mistake of the caller's; `data` has the code, `retryable` and the details.
    """
    try:
        return await answer
    except TaskNotFound as error:
        raise MCPError(INVALID_PARAMS, error.message) from None
    except CallError as error:
        raise rpc_error_of(error, INTERNAL_ERROR if error.retryable else INVALID_PARAMS) from None
    except StoreError as error:
        raise rpc_error_of(for_callers(error), INTERNAL_ERROR) from None


def protocol_error_outcome(error: MCPError) -> Outcome:
    """The outcome of a task that ended in a JSON-RPC error."""
    rpc_error: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.error.data is not None:
        rpc_error["data"] = plain_value(error.error.data, LARGEST_DATA)
    told = TaskError(code=OperationFailed.code, message=error.message, details={"rpc_code": error.code})
    return Outcome(error=told, rpc_error=rpc_error)


class KeepsProtocolErrors:
    """An executor whose JSON-RPC errors are kept as they are, and whose code finds its caller's token where it asks for
    it; everything else is the inner one's.

    Args:
        inner: The executor.
        as_called: Has code find of its caller what it asks for, where the host's tools look for it.
    """

    def __init__(
        self, inner: Executor, as_called: Callable[[Caller], AbstractContextManager[None]] = restored_caller
    ) -> None:
        self.inner = inner
        self._as_called = as_called

    @property
    def parameters_schema(self) -> Mapping[str, Any]:
        """See `Executor.parameters_schema`."""
        return self.inner.parameters_schema

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Executor.validate`."""
        return self.inner.validate(arguments)

    async def run(self, arguments: Mapping[str, Any], context: TaskContext) -> Any:
        """See `Executor.run`."""
        try:
            with self._as_called(context.caller):
                return await self.inner.run(arguments, context)
        except MCPError as error:
            raise FailedAs(protocol_error_outcome(error)) from error

    @property
    def leaves_work(self) -> bool:
        """See `CancelsUpstream.leaves_work`."""
        return isinstance(self.inner, CancelsUpstream) and self.inner.leaves_work

    async def stop_outside(self, cleanup: Mapping[str, Any]) -> None:
        """See `CancelsUpstream.stop_outside`."""
        if isinstance(self.inner, CancelsUpstream):
            await self.inner.stop_outside(cleanup)

    def check(self) -> list[str]:
        """What the inner one lacks on this machine, in words."""
        look: Callable[[], list[str]] | None = getattr(self.inner, "check", None)
        return look() if look is not None else []

    async def aclose(self) -> None:
        """Let the inner one let go of what it holds, if anything."""
        if (close := getattr(self.inner, "aclose", None)) is not None:
            await close()
