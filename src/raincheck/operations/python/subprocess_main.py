"""The child process of an isolated operation: imports the function, runs it, says how it ended.

It speaks with the worker over what were its stdin and stdout; both are replaced before any code of the operation runs,
so that nothing the function prints, reads or starts can reach them. When the worker goes away, so does this process,
with all it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import inspect
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pydantic_core

from raincheck.domain.caller import Caller
from raincheck.domain.redaction import redact, redacted_texts, redacting
from raincheck.domain.task import Progress
from raincheck.domain.traces import alone, raised_by, stack_of, text_of
from raincheck.errors import OperationFailed, TaskFailure
from raincheck.operations.context import CallbackAddress, Start, TaskCancelled, TaskContext
from raincheck.operations.error_details import LARGEST_DATA, plain_details, plain_text
from raincheck.operations.exits import stopped
from raincheck.operations.json_values import json_value
from raincheck.operations.python.executor import PythonExecutor, is_async
from raincheck.operations.python.signature import Signature
from raincheck.operations.python.subprocess_protocol import Channel

# A script is loaded under a name of its own, so that its `if __name__ == "__main__"` block does not run.
_SCRIPT_MODULE = "__raincheck_main__"
_MESSAGE_CHARS = 2000
_STACK_CHARS = 16_000


def main() -> NoReturn:
    """Run one call and leave the process."""
    channel = _take_over_standard_streams()
    call = channel.read()
    if call is not None:
        worker = _Worker(channel)
        threading.Thread(target=worker.listen, name="raincheck-worker", daemon=True).start()
        channel.write(_end_of(call, worker))
    _leave(0)


def _take_over_standard_streams() -> Channel:
    channel = Channel(os.dup(0), os.dup(1))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return channel


def _leave(status: int) -> NoReturn:
    # No join of threads that the function left behind: they would keep a finished task waiting.
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


class _Worker:
    """The worker, as the context's backend: reports and questions go out, answers come in."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count()
        self._answers: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]]] = {}

    async def report(self, progress: Progress) -> None:
        self._channel.write({"progress": [progress.fraction, progress.message]})

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._call("ask", method, params)

    async def save(self, checkpoint: Any, cleanup: Mapping[str, Any] | None) -> None:
        await self._call("save", checkpoint, cleanup)

    async def external_completed(self) -> None:
        await self._call("external_completed")

    async def suspend(self) -> None:
        await self._call("suspend")

    async def resume(self) -> None:
        await self._call("resume")

    async def hand_over(self) -> None:
        await self._call("hand_over")

    async def await_external(self) -> NoReturn:
        await self._call("await_external")
        raise AssertionError("it is never answered")

    async def callback_address(self) -> CallbackAddress:
        return CallbackAddress(*await self._call("callback_address"))

    async def _call(self, verb: str, *arguments: Any) -> Any:
        number = next(self._numbers)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._answers[number] = (loop, answer)
        self._channel.write({"call": number, "verb": verb, "arguments": arguments})
        return await answer

    def listen(self) -> None:
        """Take answers in, in a thread, until the worker is gone."""
        while message := self._channel.read():
            loop, answer = self._answers.pop(message["answer"])
            loop.call_soon_threadsafe(_answered, answer, message)
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _answered(answer: asyncio.Future[Any], message: Mapping[str, Any]) -> None:
    if answer.done():
        return
    if "failed" in message:
        answer.set_exception(OperationFailed(message["failed"]))
    else:
        answer.set_result(message["value"])


def _end_of(call: dict[str, Any], worker: _Worker) -> dict[str, Any]:
    with redacting(call["redacted"]):
        try:
            function = _imported(call)
            value = _run(function, call, worker)
            limit: int = call["max_result_bytes"]
            return {"too_large": limit} if len(pydantic_core.to_json(value)) > limit else {"result": value}
        except BaseException as error:  # noqa: BLE001  how it ended, whatever it raised
            return _failed(error)


def _failed(error: BaseException) -> dict[str, Any]:
    match alone(error):
        case TaskFailure() as told:
            pass
        case Exception() as raised:
            told = OperationFailed(redact(text_of(raised))[:_MESSAGE_CHARS], details={"type": type(raised).__name__})
        case raised:
            told = stopped(raised)
    public = {
        "code": told.code,
        "message": plain_text(told.message),
        "retryable": bool(told.retryable),
        "details": plain_details(told.details, LARGEST_DATA),
    }
    stack = plain_text(stack_of(error, texts=not redacted_texts())[-_STACK_CHARS:])
    return {"failed": {**public, "stack": stack, "raised": raised_by(error)}}


def _imported(call: dict[str, Any]) -> Callable[..., Any]:
    if call["file"] is None:
        module = importlib.import_module(call["module"])
    else:
        spec = importlib.util.spec_from_file_location(_SCRIPT_MODULE, Path(call["file"]))
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[_SCRIPT_MODULE] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    target: Any = module
    for name in call["qualname"].split("."):
        target = getattr(target, name, None)
    if not callable(target):
        raise OperationFailed(f"{call['module']} has no function {call['qualname']} in a process of its own")
    return target


def _run(function: Callable[..., Any], call: dict[str, Any], worker: _Worker) -> Any:
    signature = Signature(function, call["operation_type"])
    if is_async(function):
        return asyncio.run(_run_async(PythonExecutor(function, operation_type="", signature=signature), call, worker))
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="raincheck-context", daemon=True).start()
    return _run_sync(function, signature, call["arguments"], _context(call, worker, loop))


async def _run_async(executor: PythonExecutor, call: dict[str, Any], worker: _Worker) -> Any:
    loop = asyncio.get_running_loop()
    context = _context(call, worker, loop)
    task = asyncio.current_task()
    assert task is not None

    def stop() -> None:
        context.mark_cancelled()
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, stop)
    return await executor.run(call["arguments"], context)


def _run_sync(
    function: Callable[..., Any], signature: Signature, arguments: Mapping[str, Any], context: TaskContext
) -> Any:
    keywords = signature.keywords(arguments, context)

    def stop(*_: object) -> NoReturn:
        context.mark_cancelled()
        raise TaskCancelled

    signal.signal(signal.SIGTERM, stop)
    try:
        value = function(**keywords)
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value))
        return json_value(value, signature.output)
    except (Exception, TaskCancelled):
        raise
    except BaseException as error:  # sys.exit and its like: a failure with a reason, not a silent end
        raise stopped(error) from error
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


async def _awaited(value: Any) -> Any:
    return await value


def _context(call: dict[str, Any], worker: _Worker, loop: asyncio.AbstractEventLoop) -> TaskContext:
    return TaskContext(
        task_ref=call["task_ref"],
        operation_type=call["operation_type"],
        idempotency_key=call["idempotency_key"],
        start=Start(call["attempt"], call["fence"], call["checkpoint"]),
        caller=Caller.of(call["scope"], call["caller"]),
        backend=worker,
        loop=loop,
    )
