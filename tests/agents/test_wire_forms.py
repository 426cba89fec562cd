"""The scripted model's wire forms: in each it calls the tool that it is asked to, and ends on its result."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.agents.model.findings import digest  # noqa: E402  the benchmarks are no part of the package
from benchmarks.agents.model.script import Script, prompt  # noqa: E402
from benchmarks.agents.model.server import Record, serve  # noqa: E402

LINE = f"00000 {'ab' * 28}c"
PROMPT = prompt(Script(operation="nap", arguments={"seconds": 2}, then="wait"))
TICKET = json.dumps(
    {"task_ref": "r", "status": "processing", "next_step": "Call resolve_task_status with it.", "after": "7"}
)
TOOLS = ("bench_nap", "bench_resolve_task_status")

Answers = list[tuple[str, str]]


class Form(NamedTuple):
    """A wire form.

    Attributes:
        path: Where it is asked.
        body: The request after these calls, each with its answer.
        said: The tool called and the text said, of an answer.
    """

    path: str
    body: Callable[[Answers], dict[str, Any]]
    said: Callable[[Mapping[str, Any]], tuple[str | None, str]]


def _messages(answers: Answers) -> dict[str, Any]:
    turns: list[dict[str, Any]] = [{"role": "user", "content": PROMPT}]
    for number, (name, text) in enumerate(answers):
        use: dict[str, Any] = {"type": "tool_use", "id": str(number), "name": name, "input": {}}
        result = {"type": "tool_result", "tool_use_id": str(number), "content": [{"type": "text", "text": text}]}
        turns += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    return {"messages": turns, "tools": [{"name": name, "input_schema": {}} for name in TOOLS]}


def _responses(answers: Answers) -> dict[str, Any]:
    entries: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "input_text", "text": PROMPT}]}]
    for number, (name, text) in enumerate(answers):
        call = {"type": "function_call", "call_id": str(number), "name": name, "arguments": "{}"}
        entries += [call, {"type": "function_call_output", "call_id": str(number), "output": text}]
    group = {"type": "namespace", "name": "bench_", "tools": [{"type": "function", "name": name} for name in TOOLS]}
    return {"input": entries, "tools": [group]}


def _chat(answers: Answers) -> dict[str, Any]:
    turns: list[dict[str, Any]] = [{"role": "user", "content": PROMPT}]
    for number, (name, text) in enumerate(answers):
        call = {"id": str(number), "type": "function", "function": {"name": name, "arguments": "{}"}}
        turns += [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": text}]
    return {"messages": turns, "tools": [{"type": "function", "function": {"name": name}} for name in TOOLS]}


def _gemini(answers: Answers) -> dict[str, Any]:
    turns: list[dict[str, Any]] = [{"role": "user", "parts": [{"text": PROMPT}]}]
    for name, text in answers:
        turns.append({"role": "model", "parts": [{"functionCall": {"name": name, "args": {}}}]})
        turns.append({"role": "user", "parts": [{"functionResponse": {"name": name, "response": {"output": text}}}]})
    return {"contents": turns, "tools": [{"functionDeclarations": [{"name": name} for name in TOOLS]}]}


def _of_messages(answer: Mapping[str, Any]) -> tuple[str | None, str]:
    block = answer["content"][0]
    return block.get("name"), block.get("text", json.dumps(block.get("input")))


def _of_responses(answer: Mapping[str, Any]) -> tuple[str | None, str]:
    output = answer["output"][0]
    return output.get("name"), output.get("arguments") or output["content"][0]["text"]


def _of_chat(answer: Mapping[str, Any]) -> tuple[str | None, str]:
    message = answer["choices"][0]["message"]
    function: dict[str, Any] = message["tool_calls"][0]["function"] if "tool_calls" in message else {}
    return function.get("name"), function.get("arguments") or message["content"]


def _of_gemini(answer: Mapping[str, Any]) -> tuple[str | None, str]:
    part = answer["candidates"][0]["content"]["parts"][0]
    call: dict[str, Any] = part.get("functionCall") or {}
    return call.get("name"), part.get("text", json.dumps(call.get("args")))


FORMS = {
    "messages": Form("/v1/messages", _messages, _of_messages),
    "responses": Form("/v1/responses", _responses, _of_responses),
    "chat": Form("/v1/chat/completions", _chat, _of_chat),
    "gemini": Form("/v1beta/models/any:generateContent", _gemini, _of_gemini),
}


@pytest.mark.parametrize("name", FORMS)
async def test_the_model_calls_passes_on_what_it_is_told_and_ends(name: str) -> None:
    form, record = FORMS[name], Record()
    async with serve(record, server="bench") as port, httpx2.AsyncClient() as http:

        async def asked(answers: Answers) -> tuple[str | None, str]:
            answer = await http.post(f"http://127.0.0.1:{port}{form.path}", json=form.body(answers))
            return form.said(answer.json())

        tool, said = await asked([])
        assert (tool, json.loads(said)) == ("bench_nap", {"seconds": 2})
        tool, said = await asked([("bench_nap", TICKET)])
        assert (tool, json.loads(said)) == ("bench_resolve_task_status", {"task_ref": "r", "after": "7"})
        assert await asked([("bench_nap", LINE)]) == (None, f"BENCH-DONE {digest([LINE])}")
    assert [each.main for each in record.exchanges] == [True] * 3


@pytest.mark.parametrize("name", FORMS)
async def test_a_streamed_answer_says_the_same(name: str) -> None:
    form = FORMS[name]
    path = form.path.replace(":generateContent", ":streamGenerateContent")
    async with serve(Record(), server="bench") as port, httpx2.AsyncClient() as http:
        body = {**form.body([("bench_nap", LINE)]), "stream": True}
        answer = await http.post(f"http://127.0.0.1:{port}{path}", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert f"BENCH-DONE {digest([LINE])}" in answer.text


async def test_a_side_call_is_answered_and_counted_apart() -> None:
    record = Record()
    async with serve(record, server="bench") as port, httpx2.AsyncClient() as http:
        body = {"messages": [{"role": "user", "content": f"Write a title: {PROMPT}"}]}
        answer = await http.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body)
        models = await http.get(f"http://127.0.0.1:{port}/v1/models")
    assert answer.json()["choices"][0]["message"]["content"] == "ok"
    assert models.json()["object"] == "list"
    assert [each.main for each in record.exchanges] == [False]
