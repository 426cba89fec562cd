"""FastMCP's side of tools: ours as FastMCP lists them, and the server's own run as tasks, outside of any request."""

# FastMCP is an extra, and not there where raincheck is developed: what comes from it is unknown to the type checker.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUntypedBaseClass=false, reportUnknownParameterType=false, reportUnknownArgumentType=false
# pyright: reportMissingModuleSource=false

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, get_type_hints

from fastmcp import Context, FastMCP
from fastmcp.exceptions import FastMCPError
from fastmcp.server import dependencies
from fastmcp.server.dependencies import fastmcp_request_ctx, without_injected_parameters
from fastmcp.server.elicitation import (
    CancelledElicitation,
    DeclinedElicitation,
    handle_elicit_accept,
    parse_elicit_response_type,
)
from fastmcp.tools.base import InputRequiredToolResult, Tool, ToolResult
from fastmcp.tools.function_tool import FunctionTool
from fastmcp.utilities.types import get_cached_typeadapter
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult
from pydantic import PrivateAttr
from pydantic_core import to_json

from raincheck.domain.caller import Caller
from raincheck.domain.task import Outcome
from raincheck.domain.traces import text_of
from raincheck.mcp.auth.restored_caller import restored_caller
from raincheck.mcp.tool_runs import (
    NO_REQUEST,
    CheckedTool,
    adopted_operation,
    failed_tool,
    log_of_tool,
    tool_outcome,
)
from raincheck.mcp.tool_threads import in_own_thread
from raincheck.mcp.wire.protocol_errors import protocol_error_outcome
from raincheck.operations.context import TaskContext
from raincheck.operations.late_results import on_behalf_of
from raincheck.operations.operation import FailedAs, Operation, Policy
from raincheck.operations.own_checks import OwnChecks

Answer = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


class AnsweredTool(Tool):
    """A tool of ours in FastMCP's listing. A client's call is answered before it gets here, by the extension."""

    _answer: Answer = PrivateAttr()

    @classmethod
    def made(cls, answer: Answer, **fields: Any) -> AnsweredTool:
        """The tool; `answer` serves the calls that other code of the server makes."""
        tool = cls(**fields)
        tool._answer = answer
        return tool

    def to_mcp_tool(self, **overrides: Any) -> Any:
        """See `Tool.to_mcp_tool`: without the title that FastMCP makes of a name, which says nothing more."""
        return super().to_mcp_tool(**{"title": self.title, **overrides})

    async def run(self, arguments: dict[str, Any]) -> Any:
        """See `Tool.run`."""
        return await self._answer(self.name, arguments)


class BackgroundContext(Context):
    """The `Context` that a tool gets when it runs as a task: progress and questions go to the task."""

    def __init__(self, server: FastMCP, task: TaskContext) -> None:
        super().__init__(server)
        self._task = task

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """See `Context.report_progress`; without a total only the message is known."""
        await self._task.progress(progress / total if total else None, message)

    async def log(self, message: str, level: Any = None, logger_name: str | None = None, extra: Any = None) -> None:
        """A log message has no client to go to; it goes to the server's log."""
        log_of_tool(self._task, level, message, extra)

    @property
    def request_id(self) -> str:
        """The task's id: there is no request."""
        return self._task.task_ref

    @property
    def session_id(self) -> str:
        """The task's id, as each call of protocol 2026-07-28 is a session of its own: state that the tool sets is
        there until the task ends, also in its next attempt."""
        return self._task.task_ref

    @property
    def session(self) -> Any:
        """See `Context.session`.

        Raises:
            RuntimeError: Always: there is no request.
        """
        raise RuntimeError(f"ctx.session: {NO_REQUEST}")

    async def elicit(
        self,
        message: str,
        response_type: Any,
        *,
        response_title: str | None = None,
        response_description: str | None = None,
    ) -> Any:
        """See `Context.elicit`; the task is `input_required` until the caller has answered."""
        config = parse_elicit_response_type(
            response_type, response_title=response_title, response_description=response_description
        )
        answer = await self._task.elicit(message, config.schema)
        if answer["action"] == "accept":
            return handle_elicit_accept(config, answer.get("content"))
        return DeclinedElicitation() if answer["action"] == "decline" else CancelledElicitation()


@contextmanager
def outside_any_request(caller: Caller) -> Generator[None]:
    """While the block runs, FastMCP's own functions tell of no request, and of the caller what its operation asks for.

    A task may start in the context of the call that made it, or of a scan: what is there counts for nothing.
    """
    seen: dict[str, Any] = {"_current_http_request": None, "_background_task_headers": dict(caller.headers) or None}
    variables = {name: getattr(dependencies, name) for name in seen if hasattr(dependencies, name)}
    request, before = fastmcp_request_ctx.set(None), {each: each.set(seen[name]) for name, each in variables.items()}
    try:
        with restored_caller(caller):
            yield
    finally:
        fastmcp_request_ctx.reset(request)
        for variable, token in before.items():
            variable.reset(token)


class FastMCPToolExecutor(CheckedTool):
    """Runs one tool of the server as FastMCP does, with a context of its own."""

    def __init__(self, server: FastMCP, tool: Tool) -> None:
        self._server = server
        # FastMCP keeps what it makes of a function by the function, so that this is made once.
        own = isinstance(tool, FunctionTool)
        threads = own and tool.run_in_thread
        self._tool = tool.model_copy(update={"fn": in_own_thread(tool.fn, whole=True)}) if threads else tool
        checks = _own_checks(server, tool) if own else OwnChecks(tool.name, tool.parameters, None)
        super().__init__(tool.parameters, checks)

    async def run(self, arguments: Mapping[str, Any], context: TaskContext) -> Outcome:
        """See `Executor.run`: the whole tool result is kept, and a JSON-RPC error as it is."""
        try:
            with outside_any_request(context.caller), on_behalf_of(context):
                async with BackgroundContext(self._server, context):
                    result = await self._tool.run(dict(arguments))
        except MCPError as error:
            raise FailedAs(protocol_error_outcome(error)) from error
        except FastMCPError as error:
            raise failed_tool(text_of(error), error) from error
        except Exception as error:
            raise failed_tool(self._told(error), error) from error
        if not isinstance(result, ToolResult) or isinstance(result, InputRequiredToolResult):
            raise failed_tool(f"Tool {self._tool.name} asked for input in a way that a task cannot: use ctx.elicit.")
        return tool_outcome(self._tool.name, wire_result(result))

    def _told(self, error: Exception) -> str:
        masked = getattr(self._server, "_mask_error_details", True)
        text = f"Error calling tool {self._tool.name!r}"
        return text if masked else f"{text}: {text_of(error)}"


def _own_checks(server: FastMCP, tool: FunctionTool) -> OwnChecks:
    """FastMCP checks arguments in one with the call of the function: here one is called that does nothing."""
    taken = without_injected_parameters(tool.fn)

    def call(*args: Any, **kwargs: Any) -> None:
        return

    call.__signature__ = inspect.signature(taken)  # pyright: ignore[reportFunctionMemberAccess]
    call.__annotations__ = _annotations(taken)
    adapter = get_cached_typeadapter(call)

    def check(arguments: Any) -> None:
        if server.strict_input_validation:
            adapter.validate_json(to_json(arguments), strict=True)
        else:
            adapter.validate_python(arguments)

    return OwnChecks(tool.name, tool.parameters, check, adapter.core_schema)


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        return {name: each.annotation for name, each in inspect.signature(function).parameters.items()}


def wire_result(result: ToolResult) -> CallToolResult:
    """The result as it goes over the wire."""
    made: Any = result.to_mcp_result()
    if isinstance(made, CallToolResult):
        return made
    content, structured = made if isinstance(made, tuple) else (made, None)
    return CallToolResult(content=content, structured_content=structured)


def existing_tool_operation(server: FastMCP, tool: Tool, policy: Policy) -> Operation:
    """The operation that stands for a tool which the server already has."""
    return adopted_operation(tool, FastMCPToolExecutor(server, tool), policy)
