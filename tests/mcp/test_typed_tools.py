"""Each operation as its own tool: inline, auto and task; existing tools by pattern; the library's two lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from mcp.client import Client
from mcp.server.mcpserver import Context, Elicit, MCPServer, Resolve
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from pydantic import BaseModel

from raincheck.errors import ConfigurationError
from raincheck.mcp.sdk_host import Raincheck
from raincheck.operations.context import TaskContext
from raincheck.operations.operation import Policy
from support.waiting import PATIENCE

MakeRaincheck = Callable[..., Raincheck]


async def resolve(client: Client, ticket: dict[str, Any]) -> dict[str, Any]:
    """The task once it has ended or asks something. The SDK's client may wait too short for that at once."""
    arguments = {"task_ref": ticket["task_ref"], "wait_seconds": 10}
    async with asyncio.timeout(PATIENCE):
        while True:
            status = (await client.call_tool("resolve_task_status", arguments)).structured_content
            if status["status"] not in ("pending", "processing"):
                return status


async def test_auto_gives_the_plain_result_when_it_is_there_in_time_else_the_ticket(
    make_raincheck: MakeRaincheck,
) -> None:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)
    release = asyncio.Event()

    @rc.operation(inline_wait_seconds=0.2)
    async def work(wait: bool) -> dict[str, int]:
        if wait:
            await release.wait()
        return {"answer": 42}

    async with Client(server) as client:
        quick = await client.call_tool("work", {"wait": False})
        assert quick.structured_content == {"answer": 42}
        slow = await client.call_tool("work", {"wait": True})
        assert not slow.is_error
        assert slow.structured_content["status"] == "processing"
        release.set()
        assert (await resolve(client, slow.structured_content))["result"] == {"answer": 42}


async def test_task_mode_always_gives_a_ticket_and_inline_mode_never(make_raincheck: MakeRaincheck) -> None:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)

    @rc.operation(mode="task")
    def always() -> str:
        return "later"

    @rc.operation(mode="inline")
    def never() -> str:
        return "now"

    async with Client(server) as client:
        ticket = (await client.call_tool("always", {})).structured_content
        assert ticket["status"] == "queued"
        assert (await resolve(client, ticket))["result"] == "later"
        assert (await client.call_tool("never", {})).content[0].text == "now"  # pyright: ignore
        tasks = (await client.call_tool("list_background_tasks", {})).structured_content["tasks"]
        assert [task["operation_type"] for task in tasks] == ["always"]


async def test_a_failure_is_the_tools_error_in_every_mode(make_raincheck: MakeRaincheck) -> None:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)

    def fail() -> str:
        raise ValueError("no such quarter")

    rc.operation(name="a", mode="auto")(fail)
    rc.operation(name="b", mode="inline")(fail)
    rc.operation(name="c", mode="task", without_tasks="wait")(fail)
    async with Client(server) as client:
        for name in "abc":
            result = await client.call_tool(name, {})
            assert result.is_error
            assert result.structured_content["error"]["code"] == "operation_failed"
            assert result.structured_content["error"]["message"] == "no such quarter"


async def test_without_tasks_wait_blocks_and_refuse_refuses(make_raincheck: MakeRaincheck) -> None:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)

    @rc.operation(mode="task", without_tasks="wait")
    async def waits() -> str:
        await asyncio.sleep(0.3)
        return "here it is"

    @rc.operation(mode="task", without_tasks="refuse")
    async def refuses() -> str:
        return "never"

    async with Client(server) as client:
        assert (await client.call_tool("waits", {})).content[0].text == "here it is"  # pyright: ignore
        with pytest.raises(MCPError) as caught:
            await client.call_tool("refuses", {})
    assert caught.value.code == -32021
    assert caught.value.data == {"requiredCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}}


async def test_only_tools_that_may_answer_with_a_ticket_say_so(make_raincheck: MakeRaincheck) -> None:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)
    policies: dict[str, dict[str, Any]] = {
        "auto": {},
        "always": {"mode": "task"},
        "never": {"mode": "inline"},
        "waits": {"without_tasks": "wait"},
    }
    for name, policy in policies.items():

        @rc.operation(name=name, description="Works.", **policy)
        def _() -> None: ...

    async with Client(server) as client:
        tools = {tool.name: str(tool.description) for tool in (await client.list_tools()).tools}
    assert {name for name in policies if "ticket" in tools[name]} == {"auto", "always"}
    assert tools["never"] == tools["waits"] == "Works."


async def test_bad_parameters_of_a_typed_tool_are_refused_without_a_task(make_raincheck: MakeRaincheck) -> None:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)

    @rc.operation
    def report(quarter: int) -> int:
        return quarter

    async with Client(server) as client:
        result = await client.call_tool("report", {"quarter": "third"})
        assert result.is_error
        assert result.structured_content["error"]["code"] == "invalid_parameters"
        assert "quarter" in result.structured_content["error"]["message"]
        assert (await client.call_tool("list_background_tasks", {})).structured_content == {"tasks": []}


@pytest.mark.parametrize("with_lifespan", [True, False])
async def test_existing_tools_become_operations_by_name_pattern_unchanged(
    make_raincheck: MakeRaincheck, with_lifespan: bool
) -> None:
    rc = make_raincheck(tools="slow_*", policy=Policy(inline_wait_seconds=0.1))
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan if with_lifespan else None)
    release = asyncio.Event()

    @server.tool()
    async def slow_report(quarter: int, ctx: Context[Any, Any]) -> dict[str, int]:
        """Build a report."""
        await ctx.report_progress(1, 4, "begun")
        await release.wait()
        return {"quarter": quarter}

    @server.tool()
    def quick(n: int) -> int:
        return n

    @server.tool()
    def slow_failing() -> str:
        raise RuntimeError("inside")

    async with Client(server) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        # A client checks results against a promised schema, which a ticket would break.
        assert tools["slow_report"].output_schema is None
        assert tools["quick"].output_schema is not None
        told = "(May answer with a ticket: resolve_task_status then waits for the result.)"
        assert tools["slow_report"].description == f"Build a report. {told}"
        assert tools["quick"].description == ""
        ticket = (await client.call_tool("slow_report", {"quarter": 3})).structured_content
        look = {"task_ref": ticket["task_ref"], "wait_seconds": 0}
        status = (await client.call_tool("resolve_task_status", look)).structured_content
        assert status["progress"] == {"fraction": 0.25, "message": "begun"}
        release.set()
        assert (await resolve(client, ticket))["result"] == {"quarter": 3}
        assert (await client.call_tool("quick", {"n": 5})).structured_content == {"result": 5}
        failed = await client.call_tool("slow_failing", {})
        assert failed.is_error
        assert "inside" not in failed.content[0].text  # pyright: ignore
        bad = await client.call_tool("slow_report", {"quarter": "x"})
        assert bad.structured_content["error"]["code"] == "invalid_parameters"


async def test_the_extension_alone_lists_operations_declared_later(make_raincheck: MakeRaincheck) -> None:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc])

    @rc.operation(mode="task")
    def later(n: int = 3) -> int:
        """Declared after the server was made."""
        return n

    async with Client(server) as client:
        tool = next(tool for tool in (await client.list_tools()).tools if tool.name == "later")
        told = "(May answer with a ticket: resolve_task_status then waits for the result.)"
        assert tool.description == f"Declared after the server was made. {told}"
        assert tool.input_schema["properties"]["n"]["default"] == 3
        ticket = (await client.call_tool("later", {})).structured_content
        assert (await resolve(client, ticket))["result"] == 3
        # The lazily started service has no shutdown of its own in this form.
    async with rc.running():
        pass


async def test_your_own_lifespan_goes_on_inside_ours(make_raincheck: MakeRaincheck) -> None:
    rc = make_raincheck()

    @asynccontextmanager
    async def mine(server: MCPServer[Any]) -> AsyncGenerator[dict[str, str]]:
        yield {"pool": "open"}

    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.around(mine))
    seen: list[Any] = []

    @server.tool()
    def look(ctx: Context[Any, Any]) -> str:
        seen.append(ctx.request_context.lifespan_context)
        return "ok"

    async with Client(server) as client:
        await client.call_tool("look", {})
    assert seen == [{"pool": "open"}]


async def test_a_server_in_the_same_process_can_call_the_tools_directly(make_raincheck: MakeRaincheck) -> None:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc])

    @rc.operation
    def add(a: int, b: int = 2) -> int:
        return a + b

    assert "add" in {tool.name for tool in await server.list_tools()}


def test_a_name_is_taken_once(make_raincheck: MakeRaincheck) -> None:
    rc = make_raincheck()

    @rc.operation
    def report() -> None: ...

    with pytest.raises(ConfigurationError, match="report"):
        rc.operation(name="report")(report)
    with pytest.raises(ConfigurationError, match="resolve_task_status"):
        rc.operation(name="resolve_task_status")(report)
    with pytest.raises(ConfigurationError, match="timout_seconds"):
        rc.operation(name="other", timout_seconds=3)(report)  # pyright: ignore


async def test_a_raincheck_serves_one_server(make_raincheck: MakeRaincheck) -> None:
    rc = make_raincheck()
    MCPServer[Any]("one", extensions=[rc])
    with pytest.raises(ConfigurationError, match="another server"):
        MCPServer[Any]("two", extensions=[rc])


class Colour(BaseModel):
    colour: str


async def chosen(ctx: Context[Any, Any]) -> Elicit[Colour]:
    return Elicit("Which one?", Colour)


async def answer_all(client: Client, ticket: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    status = await resolve(client, ticket)
    assert status["status"] == "input_required"
    responses = {key: {"action": "accept", "content": content} for key in status["input_requests"]}
    await client.call_tool("provide_task_input", {"task_ref": ticket["task_ref"], "responses": responses})
    return await resolve(client, ticket)


async def test_an_existing_tool_that_elicits_asks_inside_its_task(make_raincheck: MakeRaincheck) -> None:
    rc = make_raincheck(tools="ask_*", policy=Policy(mode="task"))
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)

    @server.tool()
    async def ask_elicit(ctx: Context[Any, Any]) -> str:
        answer = await ctx.elicit("Which colour?", Colour)
        return answer.data.colour if answer.action == "accept" else answer.action

    @server.tool()
    async def ask_round(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        if ctx.input_responses is None:
            question = ElicitRequestFormParams(
                message="Which?", requested_schema={"type": "object", "properties": {"colour": {"type": "string"}}}
            )
            return InputRequiredResult(input_requests={"c": ElicitRequest(params=question)}, request_state="round 1")
        (answer,) = ctx.input_responses.values()
        assert isinstance(answer, ElicitResult)
        return f"{ctx.request_state}: {answer.content}"

    @server.tool()
    async def ask_resolver(colour: Annotated[Colour, Resolve(chosen)]) -> str:
        return colour.colour

    async with Client(server) as client:
        for name, expected in (
            ("ask_elicit", {"result": "green"}),
            ("ask_round", {"result": "round 1: {'colour': 'green'}"}),
            ("ask_resolver", {"result": "green"}),
        ):
            ticket = (await client.call_tool(name, {})).structured_content
            status = await answer_all(client, ticket, {"colour": "green"})
            assert status["result"] in (expected, expected["result"]), status


async def test_questions_asked_first_are_answered_inside_the_task_by_a_client_that_cannot_before(
    make_raincheck: MakeRaincheck,
) -> None:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)
    question: dict[str, Any] = {"mode": "form", "message": "Who?", "requestedSchema": {"type": "object"}}

    @rc.operation(mode="task", ask_first={"who": question})
    async def greet(context: TaskContext) -> Any:
        return context.answers["who"]["content"]

    async with Client(server, mode="legacy") as client:
        ticket = (await client.call_tool("greet", {})).structured_content
        assert (await answer_all(client, ticket, {"name": "Ada"}))["result"] == {"name": "Ada"}


async def test_no_user_is_asked_about_a_call_that_would_be_refused(make_raincheck: MakeRaincheck) -> None:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)
    form = {"type": "object", "properties": {"name": {"type": "string"}}}
    question: dict[str, Any] = {"mode": "form", "message": "Who?", "requestedSchema": form}
    asked: list[str] = []

    @rc.operation(mode="task", ask_first={"who": question})
    async def greet(times: int, context: TaskContext) -> Any:
        return context.answers["who"]["content"]

    async def answer(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"name": "Ada"})

    async with Client(server, elicitation_callback=answer) as client:
        refused = await client.call_tool("greet", {"times": "often"})
        assert (refused.structured_content["error"]["code"], asked) == ("invalid_parameters", [])
        ticket = (await client.call_tool("greet", {"times": 2})).structured_content
        assert ((await resolve(client, ticket))["result"], asked) == ({"name": "Ada"}, ["Who?"])
