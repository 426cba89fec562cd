"""The scripted model as a server on loopback, in the four wire forms; it records what it is sent."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.agents.json_access import child
from benchmarks.agents.model import chat, gemini, messages, responses
from benchmarks.agents.model.conversation import Call, Conversation, Decision, Item, Say
from benchmarks.agents.model.obedient import Obedient
from benchmarks.agents.model.toolbox import unwrapped

__all__ = ["Exchange", "Record", "serve"]

MODEL = "bench-model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """One request to the model.

    Attributes:
        at: When it had arrived (wall clock).
        main: Whether it belongs to the conversation of the script; else it is a side call of the host.
        bytes_in: The size of its body.
        tools, tool_bytes: How many tools it offers, and the size of their definitions.
        call: The tool that the model then called, and its arguments; None where it ended its turn.
        text: What the model said.
        lines: How many lines of the result it has been given so far.
    """

    at: float
    main: bool
    path: str
    bytes_in: int
    tools: int
    tool_bytes: int
    call: tuple[str, str] | None
    text: str
    lines: int


@dataclass(kw_only=True, slots=True)
class Record:
    """What a run's model was sent; `bodies` where the whole is wanted, for finding out."""

    exchanges: list[Exchange] = field(default_factory=list[Exchange])
    others: list[str] = field(default_factory=list[str])
    bodies: list[dict[str, Any]] | None = None


_Read = Callable[[Mapping[str, Any]], Conversation]
_Form = tuple[
    _Read, Callable[[Decision, str], dict[str, Any]], Callable[[Decision, str], Iterator[tuple[str | None, Any]]]
]


def _form(path: str) -> _Form | None:
    """The wire form of an address; None where no model answers there."""
    if path.endswith("/messages"):
        return messages.read, messages.answer, messages.events
    if path.endswith("/responses"):
        return responses.read, responses.answer, responses.events
    if path.endswith("/chat/completions"):
        return chat.read, chat.answer, chat.events
    if path.endswith((":generateContent", ":streamGenerateContent")):
        return partial(gemini.read, stream=path.endswith(":streamGenerateContent")), gemini.answer, gemini.events
    return None


class _Model:
    def __init__(self, record: Record, server: str) -> None:
        self._record = record
        self._server = server

    async def answer(self, request: Request) -> Response:
        arrived, raw = time.time(), await request.body()
        body = _decoded(raw, request.headers.get("content-encoding", ""))
        path = request.url.path
        form = _form(path) if request.method == "POST" else None
        if form is None:
            self._record.others.append(f"{request.method} {path}")
            return _harmless(path)
        read, whole, events = form
        conversation = read(body)
        obedient = Obedient(conversation, self._server)
        main = obedient.main()
        decision = obedient.decide() if main else Say(text=_side_answer(body))
        self._note(arrived, path, len(raw), conversation, decision, obedient, main)
        if self._record.bodies is not None:
            self._record.bodies.append({"path": path, "body": body})
        if not conversation.stream:
            return JSONResponse(whole(decision, MODEL))
        return Response(b"".join(_event(*each) for each in events(decision, MODEL)), media_type="text/event-stream")

    def _note(
        self,
        at: float,
        path: str,
        size: int,
        conversation: Conversation,
        decision: Decision,
        obedient: Obedient,
        main: bool,
    ) -> None:
        self._record.exchanges.append(
            Exchange(
                at=at,
                main=main,
                path=path,
                bytes_in=size,
                tools=len(conversation.tools),
                tool_bytes=conversation.tool_bytes,
                call=_told(decision) if isinstance(decision, Call) else None,
                text=decision.text if isinstance(decision, Say) else "",
                lines=len(obedient.result_lines()),
            )
        )


def _decoded(raw: bytes, encoding: str) -> dict[str, Any]:
    try:
        found: Any = json.loads(gzip.decompress(raw) if encoding == "gzip" else raw)
    except (ValueError, OSError):
        return {}
    return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]  JSON


def _told(call: Call) -> tuple[str, str]:
    """The call's tool and arguments; of one that goes through another tool, its own."""
    item = unwrapped(Item(kind="call", name=call.tool.name, arguments=call.arguments))
    return item.name, json.dumps(dict(item.arguments), sort_keys=True)


def _event(name: str | None, data: Any) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def _harmless(path: str) -> Response:
    """The answer to whatever hosts ask beside: lists of models, counts of tokens, settings."""
    if path.endswith("count_tokens"):
        return JSONResponse({"input_tokens": 1000})
    if path.endswith(":countTokens"):
        return JSONResponse({"totalTokens": 1000})
    if path.endswith("/models"):
        entry = {"id": MODEL, "slug": MODEL, "object": "model", "created": 0, "owned_by": "bench"}
        return JSONResponse({"object": "list", "data": [entry], "models": [], "has_more": False})
    return JSONResponse({})


def _side_answer(body: Mapping[str, Any]) -> str:
    """The text for a side call: of the schema that it asks for, where it asks for one."""
    generation = child(body, "generationConfig")
    output = child(child(body, "output_config"), "format")
    wanted = generation.get("responseJsonSchema") or generation.get("responseSchema") or output.get("schema")
    return json.dumps(_sample(wanted)) if wanted else "ok"


def _sample(schema: dict[str, Any]) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    match str(schema.get("type", "")).lower():
        case "object":
            return {key: _sample(each) for key, each in child(schema, "properties").items()}
        case "array":
            return []
        case "integer" | "number":
            return 1
        case "boolean":
            return False
        case _:
            return "ok"


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to the program that starts many of these."""
        yield


@asynccontextmanager
async def serve(record: Record, *, server: str) -> AsyncGenerator[int]:
    """The port of a model of its own, while the block runs; `server`: the MCP server's name in the host."""
    model = _Model(record, server)
    methods = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", model.answer, methods=methods)])
    with contextlib.closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        running = _Server(config)
        serving = asyncio.create_task(running.serve(sockets=[listening]))
        try:
            yield listening.getsockname()[1]
        finally:
            running.should_exit = True
            await serving
