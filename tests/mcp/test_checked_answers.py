"""What callers answer to a task's questions: bounded, and checked against the question, whoever hands it in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from mcp.client import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import ElicitResult, Implementation

from raincheck.domain.task import TaskStatus
from raincheck.errors import InvalidParameters
from raincheck.mcp.sdk_host import Raincheck
from raincheck.operations.context import TaskContext
from raincheck.operations.elicitation_answers import checked_answer
from raincheck.tasks.views import OPERATOR
from support.waiting import PATIENCE

FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 20, "pattern": "^[A-Z]"},
        "age": {"type": "integer", "minimum": 0},
        "colour": {"type": "string", "enum": ["red", "blue"], "default": "red"},
    },
    "required": ["name"],
}
ADA = {"name": "Ada"}

# An answer, and a part of the one line that refuses it.
WRONG: list[tuple[Any, str]] = [
    ({}, "action must be one of accept, decline, cancel"),
    ({"action": "yes"}, "action must be one of accept, decline, cancel"),
    ({"action": ["accept"]}, "action must be one of accept, decline, cancel"),
    ({"action": "accept"}, "content.name: required, and missing"),
    ({"action": "accept", "content": []}, "content must be a JSON object"),
    ({"action": "accept", "content": "Ada"}, "content must be a JSON object"),
    ({"action": "accept", "content": {"name": "A"}}, "content.name: should have at least 2 characters"),
    ({"action": "accept", "content": {"name": "ada"}}, "content.name: should match"),
    ({"action": "accept", "content": {"name": ["Ada"]}}, 'content.name: should be of type "string"'),
    ({"action": "accept", "content": {**ADA, "age": -1}}, "content.age: should be at least 0"),
    ({"action": "accept", "content": {**ADA, "age": 10**400}}, "a number beyond"),
    ({"action": "accept", "content": {**ADA, "colour": "green"}}, "content.colour: should be one of"),
    (
        {"action": "accept", "content": {**ADA, "more": functools.reduce(lambda v, _: [v], range(100), 1)}},
        "nested too deeply",
    ),
]


@pytest.mark.parametrize(("answer", "why"), WRONG)
def test_an_answer_that_is_none_to_its_question_is_refused_in_one_line(answer: Any, why: str) -> None:
    with pytest.raises(InvalidParameters) as refused:
        checked_answer("1-1", "elicitation/create", {"message": "Who?", "requestedSchema": FORM}, answer)
    assert refused.value.message.startswith("the answer to '1-1': ")
    assert why in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        ({"action": "accept", "content": ADA}, {"action": "accept", "content": {**ADA, "colour": "red"}}),
        # Slips of models are mended as those of parameters are.
        (
            {"action": "accept", "content": {**ADA, "age": "7", "colour": "blue"}},
            {"action": "accept", "content": {**ADA, "age": 7, "colour": "blue"}},
        ),
        ({"action": "decline", "content": {"age": -1}}, {"action": "decline"}),
        ({"action": "cancel"}, {"action": "cancel"}),
    ],
)
def test_an_answer_comes_to_the_operation_as_its_question_asks(answer: Any, taken: Any) -> None:
    assert checked_answer("1-1", "elicitation/create", {"requestedSchema": FORM}, answer) == taken


def test_questions_of_other_kinds_have_answers_of_their_own() -> None:
    at_an_address = {"mode": "url", "url": "https://example.com"}
    assert checked_answer("k", "elicitation/create", at_an_address, {"action": "accept"}) == {"action": "accept"}
    message = {"role": "assistant", "content": {"type": "text", "text": "Hi"}, "model": "m"}
    assert checked_answer("k", "sampling/createMessage", {}, message) == message
    for wrong in ({}, {**message, "role": "system"}, {**message, "content": "Hi"}, {**message, "model": 1}):
        with pytest.raises(InvalidParameters, match="the answer to 'k': "):
            checked_answer("k", "sampling/createMessage", {}, wrong)
    assert checked_answer("k", "roots/list", {}, {"roots": []}) == {"roots": []}


@pytest.mark.parametrize("schema", [{"type": "object", "properties": {"a": {"pattern": "(?=a)"}}}, {"type": 5}, None])
def test_a_question_whose_schema_cannot_be_checked_is_left_to_its_operation(schema: Any) -> None:
    answer = {"action": "accept", "content": {"a": "b"}}
    assert checked_answer("k", "elicitation/create", {"requestedSchema": schema}, answer) == answer


def _error(result: Any) -> dict[str, Any]:
    return result.structured_content["error"]


async def test_no_way_of_answering_passes_the_check(make_raincheck: Callable[..., Raincheck]) -> None:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)

    @rc.operation(mode="task")
    async def introduce(context: TaskContext) -> Any:
        return await context.elicit("Who?", FORM)

    said: list[ElicitResult] = []

    async def host(context: Any, params: Any) -> Any:
        return said.pop(0) if said else ElicitResult(action="cancel")

    async with rc.running() as registry:
        for mode in ("legacy", "auto"):
            client = Client(
                server, mode=mode, elicitation_callback=host, client_info=Implementation(name="h", version="1")
            )  # fmt: skip
            async with client:
                ticket = (await client.call_tool("introduce", {})).structured_content
                assert ticket is not None
                ref = ticket["task_ref"]
                task = await registry.wait(ref, scope=OPERATOR, seconds=PATIENCE)
                assert task.status is TaskStatus.INPUT_REQUIRED
                [key] = [each.key for each in task.outstanding]
                for answer, why in WRONG:
                    result = await client.call_tool(
                        "provide_task_input", {"task_ref": ref, "responses": {key: answer}}
                    )  # fmt: skip
                    assert result.is_error
                    error = _error(result)
                    assert error["code"] == "invalid_parameters"
                    assert why in error["message"]
                large = {key: {"action": "accept", "content": {**ADA, "more": "x" * 2_000_000}}}
                result = await client.call_tool("provide_task_input", {"task_ref": ref, "responses": large})
                error = _error(result)
                assert error["code"] == "payload_too_large"
                assert error["message"].startswith("The answers are 2000")
                # The host's own dialog, by a request or in a repeated call.
                said.append(ElicitResult(action="accept", content={"name": "nobody"}))
                await client.call_tool("resolve_task_status", {"task_ref": ref, "wait_seconds": 2})
                assert said == []
                assert (await registry.get(ref, scope=OPERATOR)).status is TaskStatus.INPUT_REQUIRED
                good = {key: {"action": "accept", "content": ADA}}
                await client.call_tool("provide_task_input", {"task_ref": ref, "responses": good})
                done = await registry.wait(ref, scope=OPERATOR, seconds=PATIENCE)
                assert done.outcome is not None
                assert done.outcome.value == {"action": "accept", "content": {**ADA, "colour": "red"}}


async def test_what_is_asked_before_the_task_is_checked_too(make_raincheck: Callable[..., Raincheck]) -> None:
    rc = make_raincheck()
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)

    @rc.operation(mode="task", ask_first={"who": {"message": "Who?", "requestedSchema": FORM}})
    async def greet(context: TaskContext) -> Any:
        return context.answers["who"]

    async def host(context: Any, params: Any) -> Any:
        return ElicitResult(action="accept", content={"name": "nobody"})

    async with rc.running() as registry, Client(server, elicitation_callback=host) as client:
        result = await client.call_tool("greet", {})
        assert result.is_error
        assert "content.name: should match" in _error(result)["message"]
        assert list(await registry.list(scope=OPERATOR)) == []
