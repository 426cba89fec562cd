"""Python operations with a process of their own: `isolation = "process"`.

Each attempt starts a fresh interpreter (`raincheck.operations.python.subprocess_main`), which imports the function by
its name. Not `multiprocessing`: that would import the server's main module again, keeps a resource tracker, and leaves
its workers behind after `kill -9`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raincheck.domain.redaction import redacted_texts
from raincheck.domain.task import Raised
from raincheck.domain.traces import RaisedElsewhere
from raincheck.errors import ConfigurationError, OperationFailed, ResultTooLarge, TaskFailure
from raincheck.operations.context import TaskContext
from raincheck.operations.environment import INHERITED, INTERPRETER, checked_inherit, inherited
from raincheck.operations.process_group import (
    ProcessGroup,
    cannot_start,
    exit_details,
    exit_text,
    refuse_without_process_groups,
)
from raincheck.operations.python.signature import Signature, function_name
from raincheck.operations.python.subprocess_protocol import MessageTooLarge, packed, read_message

# What a message needs beside the result in it.
_ENVELOPE_BYTES = 64 * 1024
# The child leaves as soon as it has said its result.
_LEAVING_SECONDS = 1.0
# -P: a module of the working folder must not shadow the standard library before sys.path is that of the server.
_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from raincheck.operations.python.subprocess_main import main; main()"
)


class IsolatedExecutor:
    """Runs a function in a child process, which is killed with all it started when the task must stop.

    On cancel the child gets SIGTERM: `TaskCancelled` is raised in a synchronous function, `CancelledError` in an async
    one, so that `finally` blocks run; what is left after `grace_seconds` gets SIGKILL. What the function prints goes
    to the server's stderr.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        operation_type: str,
        signature: Signature | None = None,
        max_result_bytes: int = 16 * 1024 * 1024,
        grace_seconds: float = 1.0,
        inherit: Sequence[str] = (),
    ) -> None:
        """Prepare a function.

        Raises:
            ConfigurationError: Another process cannot import it by its name, or a name in `inherit` is not allowed.
        """
        refuse_without_process_groups(f'{function_name(function)}: isolation = "process"')
        self._reference = _reference(function)
        self._inherit = checked_inherit(inherit, f"operation {operation_type!r}")
        self._operation_type = operation_type
        self._signature = signature or Signature(function, operation_type)
        self._max_result_bytes = max_result_bytes
        self._grace_seconds = grace_seconds

    @property
    def parameters_schema(self) -> Mapping[str, Any]:
        """See `Executor`."""
        return self._signature.parameters_schema

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Executor`."""
        return self._signature.validate(arguments)

    async def run(self, arguments: Mapping[str, Any], context: TaskContext) -> Any:
        """See `Executor`."""
        call = packed(
            {
                **self._reference,
                "arguments": arguments,
                "task_ref": context.task_ref,
                "operation_type": self._operation_type,
                "idempotency_key": context.idempotency_key,
                "attempt": context.attempt,
                "fence": context.fence,
                "checkpoint": context.checkpoint,
                "scope": context.caller.scope,
                "caller": context.caller.whole(),
                "max_result_bytes": self._max_result_bytes,
                "redacted": sorted(redacted_texts()),
            }
        )
        try:
            return _result(await self._end_of(call, context))
        except asyncio.CancelledError:
            context.mark_cancelled()
            raise

    async def _end_of(self, call: bytes, context: TaskContext) -> dict[str, Any]:
        try:
            group = await ProcessGroup.start(
                [sys.executable, "-P", "-c", _BOOTSTRAP, _module_path()],
                env=inherited((*INHERITED, *INTERPRETER, *self._inherit)),
                stdin=True,
                stdout=True,
            )
        except (OSError, RuntimeError) as error:
            raise cannot_start(sys.executable, error) from error
        try:
            assert group.stdin is not None
            group.stdin.write(call)
            end = await self._converse(group, context)
            await group.check_lease()
            if end is None:
                raise _died(await group.wait())
            await _left(group)
            return end
        finally:
            await group.stop(self._grace_seconds)

    async def _converse(self, group: ProcessGroup, context: TaskContext) -> dict[str, Any] | None:
        """Serve the child's context until it says how it ended; None where it never does."""
        assert group.stdout is not None
        asking: set[asyncio.Task[None]] = set()
        try:
            while message := await read_message(group.stdout, self._max_result_bytes + _ENVELOPE_BYTES):
                match message:
                    case {"progress": [fraction, text]}:
                        await context.progress(fraction, text)
                    case {"call": number, "verb": verb, "arguments": given}:
                        task = asyncio.create_task(_serve(group, context, number, verb, given))
                        asking.add(task)
                        task.add_done_callback(asking.discard)
                    case _:
                        return message
            return None
        except MessageTooLarge:
            raise _too_large(self._max_result_bytes) from None
        finally:
            for task in asking:
                task.cancel()


async def _serve(group: ProcessGroup, context: TaskContext, number: int, verb: str, given: Any) -> None:
    """One call of the child's context on the worker (`ContextBackend`), and its answer."""
    backend = context.backend
    answer: dict[str, Any] = {"answer": number, "value": None}
    try:
        match verb, given:
            case "ask", [method, params]:
                answer["value"] = dict(await backend.ask(method, params))
            case "save", [checkpoint, cleanup]:
                await backend.save(checkpoint, cleanup)
            case "external_completed", []:
                await backend.external_completed()
            case "suspend", []:
                await backend.suspend()
            case "resume", []:
                await backend.resume()
            case "hand_over", []:
                await backend.hand_over()
            case "await_external", []:
                await backend.await_external()
            case "callback_address", []:
                answer["value"] = list(await backend.callback_address())
            case _:
                raise AssertionError(f"the child calls {verb}")
    except OperationFailed as error:
        answer["failed"] = error.message
    if group.stdin is not None:
        group.stdin.write(packed(answer))


async def _left(group: ProcessGroup) -> None:
    leaving = asyncio.ensure_future(group.wait())
    try:
        await asyncio.wait({leaving}, timeout=_LEAVING_SECONDS)
    finally:
        leaving.cancel()


def _result(end: dict[str, Any]) -> Any:
    match end:
        case {"result": value}:
            return value
        case {"too_large": limit}:
            raise _too_large(limit)
        case {"failed": {"code": code, "stack": stack, "raised": raised, **told}}:
            raise _failure_class(code)(**told) from RaisedElsewhere(stack, Raised(*raised))
        case _:
            raise OperationFailed("the operation's process sent something unknown")


def _died(status: int) -> OperationFailed:
    return OperationFailed(
        f"the operation's process {exit_text(status)} without a result", details=exit_details(status)
    )


def _too_large(limit: int) -> ResultTooLarge:
    return ResultTooLarge(f"the result is larger than {limit} bytes", details={"max_result_bytes": limit})


def _failure_class(code: str) -> type[TaskFailure]:
    for failure in TaskFailure.__subclasses__():
        if failure.code == code:
            return failure
    return OperationFailed


def _module_path() -> str:
    # Imports pass over whatever else stands there, a `Path` say.
    return json.dumps([entry for entry in sys.path if isinstance(entry, str)])  # pyright: ignore[reportUnnecessaryIsInstance]


def _reference(function: Callable[..., Any]) -> dict[str, str | None]:
    """How another process gets the function: from a module that it can import by its name, else from a file.

    `mcp run` and `fastmcp run` load a server's file under a name that stands for nothing elsewhere.
    """
    name = function_name(function)
    qualname = getattr(function, "__qualname__", "")
    if isinstance(function, functools.partial) or not inspect.isfunction(function) or "<" in qualname:
        raise ConfigurationError(
            f'{name}: isolation = "process" needs a function at the top level of a module, '
            "which another process can import by its name"
        )
    if not sys.executable or getattr(sys, "frozen", False):
        raise ConfigurationError(f'{name}: isolation = "process" needs a Python interpreter; this program has its own')
    # Not the function's own code: a decorator's wrapper has the name of what it wraps.
    file: str | None = inspect.unwrap(function).__globals__.get("__file__")
    for module in (function.__module__, _name_of_main(function.__module__)):
        if module is not None and _importable(module, file):
            return {"module": module, "qualname": qualname, "file": None}
    if file is not None and Path(file).is_file():
        return {"module": function.__module__, "qualname": qualname, "file": str(Path(file).resolve())}
    where = "was typed in" if file is None else f"is in {file}"
    raise ConfigurationError(
        f'{name}: isolation = "process" needs a function in a file, or in a module that another process can import by '
        f"its name; this one {where}"
    )


def _name_of_main(module: str) -> str | None:
    """The name under which the main module can be imported: that of `python -m`."""
    spec = sys.modules["__main__"].__spec__ if module == "__main__" else None
    return spec and spec.name


def _importable(module: str, file: str | None) -> bool:
    """Whether importing the module by its name leads to this file."""
    package, _, _ = module.rpartition(".")
    within = getattr(sys.modules.get(package), "__path__", None)
    if module == "__main__" or file is None or (package and within is None):
        return False
    found = (finder.find_spec(module, within) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    origin = next((spec.origin for spec in found if spec is not None), None)
    return origin is not None and os.path.realpath(origin) == os.path.realpath(file)
