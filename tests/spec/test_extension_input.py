"""Input in the tasks extension: asked before the task (SEP-2322), and inside it."""

from __future__ import annotations

from typing import Any

import pytest
from spec.peers import ELICITS, NOTHING, TASKS, Modern, RpcError, answer


async def asking(modern: Modern, task_id: str, questions: int) -> dict[str, Any]:
    """The input requests by message, once there are so many."""
    while True:
        task = await modern.reaches(task_id, "input_required")
        requests = task["inputRequests"]
        if len(requests) >= questions:
            return {request["params"].get("message"): key for key, request in requests.items()}


@pytest.mark.requirement("A14")
async def test_a_partial_set_is_taken_and_the_rest_stays_asked(modern: Modern) -> None:
    task_id = await modern.start("ask_two")
    keys = await asking(modern, task_id, 2)
    await modern.update(task_id, {keys["Last name?"]: answer("Lovelace")})
    task = await modern.get(task_id)
    assert task["status"] == "input_required"
    assert set(task["inputRequests"]) == {keys["First name?"]}
    await modern.update(task_id, {keys["First name?"]: answer("Ada")})
    done = await modern.reaches(task_id, "completed")
    assert done["result"]["structuredContent"] == {"names": [{"name": "Ada"}, {"name": "Lovelace"}]}


@pytest.mark.requirement("A14")
async def test_answers_to_unknown_and_answered_questions_are_passed_over(modern: Modern) -> None:
    task_id = await modern.start("ask_two")
    keys = await asking(modern, task_id, 2)
    before = await modern.get(task_id)
    await modern.update(task_id, {"never-asked": answer("Nobody"), "": answer("Nobody")})
    after = await modern.get(task_id)
    for stays in ("status", "lastUpdatedAt", "inputRequests"):
        assert after[stays] == before[stays]
    await modern.update(task_id, {keys["First name?"]: answer("Ada"), "never-asked": answer("Nobody")})
    await modern.update(task_id, {keys["First name?"]: answer("Mallory"), keys["Last name?"]: answer("Lovelace")})
    done = await modern.reaches(task_id, "completed")
    assert done["result"]["structuredContent"] == {"names": [{"name": "Ada"}, {"name": "Lovelace"}]}


@pytest.mark.requirement("A14")
@pytest.mark.parametrize("responses", [None, [], "yes", {"key": "yes"}])
async def test_responses_that_are_no_responses_are_invalid_and_change_nothing(modern: Modern, responses: Any) -> None:
    task_id = await modern.start("ask_two")
    await asking(modern, task_id, 2)
    with pytest.raises(RpcError) as refused:
        await modern.send("tasks/update", {"taskId": task_id, "inputResponses": responses})
    assert refused.value.code == -32602
    assert len((await modern.get(task_id))["inputRequests"]) == 2


@pytest.mark.requirement("A15")
async def test_each_question_of_a_task_has_a_key_of_its_own(modern: Modern) -> None:
    task_id = await modern.start("ask_in_turn")
    first = await asking(modern, task_id, 1)
    await modern.update(task_id, {first["First name?"]: answer("Ada")})
    second = await asking(modern, task_id, 1)
    while "Last name?" not in second:
        second = await asking(modern, task_id, 1)
    assert second["Last name?"] != first["First name?"]
    await modern.update(task_id, {second["Last name?"]: answer("Lovelace")})
    done = await modern.reaches(task_id, "completed")
    assert done["result"]["structuredContent"] == {"names": [{"name": "Ada"}, {"name": "Lovelace"}], "attempt": 1}


@pytest.mark.requirement("A9", "A14")
async def test_a_model_can_be_asked_inside_a_task(modern: Modern) -> None:
    task_id = await modern.start("sampled")
    task = await modern.reaches(task_id, "input_required")
    ((key, request),) = task["inputRequests"].items()
    assert request["method"] == "sampling/createMessage"
    assert request["params"]["maxTokens"] == 10
    said = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "Hello."}}
    await modern.update(task_id, {key: said})
    assert (await modern.reaches(task_id))["result"]["structuredContent"] == {"said": "Hello."}


@pytest.mark.requirement("A17")
async def test_questions_before_the_task_are_asked_on_the_call_and_the_answers_reach_the_work(modern: Modern) -> None:
    asked = await modern.call("ask_before", capabilities=ELICITS)
    assert asked["resultType"] == "input_required"
    assert "taskId" not in asked
    ((key, request),) = asked["inputRequests"].items()
    assert (request["method"], request["params"]["message"]) == ("elicitation/create", "Who?")
    again = await modern.call("ask_before", capabilities=ELICITS, inputResponses={"another": answer("Mallory")})
    assert set(again["inputRequests"]) == {key}
    state = {"requestState": asked["requestState"]} if "requestState" in asked else {}
    created = await modern.call("ask_before", capabilities=ELICITS, inputResponses={key: answer("Ada")}, **state)
    assert created["resultType"] == "task"
    done = await modern.reaches(created["taskId"])
    assert done["result"]["structuredContent"] == {"hello": {"name": "Ada"}}


@pytest.mark.requirement("A17")
async def test_a_client_that_cannot_be_asked_on_the_call_is_asked_inside_the_task(modern: Modern) -> None:
    created = await modern.call("ask_before", capabilities=TASKS)
    assert created["resultType"] == "task"
    keys = await asking(modern, created["taskId"], 1)
    await modern.update(created["taskId"], {keys["Who?"]: {"action": "decline"}})
    assert (await modern.reaches(created["taskId"]))["result"]["structuredContent"] == {"hello": "decline"}


@pytest.mark.requirement("A3", "A17")
async def test_a_client_with_neither_tasks_nor_elicitation_is_asked_by_the_handle_tools(modern: Modern) -> None:
    ticket = await modern.call("ask_before", capabilities=NOTHING)
    ref = ticket["structuredContent"]["task_ref"]
    arguments = {"task_ref": ref, "wait_seconds": 10}
    status = (await modern.call("resolve_task_status", arguments, capabilities=NOTHING))["structuredContent"]
    ((key, _),) = status["input_requests"].items()
    responses = {"task_ref": ref, "responses": {key: answer("Ada")}}
    await modern.call("provide_task_input", responses, capabilities=NOTHING)
    status = (await modern.call("resolve_task_status", arguments, capabilities=NOTHING))["structuredContent"]
    assert status["result"] == {"hello": {"name": "Ada"}}
