"""Operations of kind python: a function, async on the event loop, synchronous in a thread, or in its own process."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from raincheck.errors import ConfigurationError, OperationFailed
from raincheck.operations.context import TaskCancelled, TaskContext
from raincheck.operations.exits import by_signal, stopped
from raincheck.operations.json_values import json_value
from raincheck.operations.late_results import thrown_away
from raincheck.operations.operation import Executor, Isolation, Operation, Policy
from raincheck.operations.python.signature import Signature, function_name
from raincheck.operations.python.threads import THREADS


def python_operation(
    function: Callable[..., Any],
    *,
    operation_type: str | None = None,
    description: str | None = None,
    title: str | None = None,
    policy: Policy | None = None,
    isolation: Isolation = "none",
    inherit: Sequence[str] = (),
) -> Operation:
    """An operation that calls `function` with its parameters by name.

    Args:
        function: Sync or async. Its annotated signature is the parameter schema; a parameter annotated `TaskContext`
            is passed in. A return annotation that is an object type is the output schema, and results have to fit it.
        operation_type: Its name; by default the function's.
        description: By default the first paragraph of the docstring.
        title: A name for people.
        policy: How it is run and answered.
        isolation: "process" gives each attempt a process of its own, which is killed when the task must stop.
        inherit: Which of the server's variables that process finds, beside those of every child (`PATH`, `HOME` ...).

    Raises:
        ConfigurationError: The function cannot be an operation; the message names it and says why.
    """
    if not callable(function):
        raise ConfigurationError(f"an operation needs a function, not a {type(function).__name__}")
    if inspect.isasyncgenfunction(_underlying(function)):
        raise ConfigurationError(
            f"{function_name(function)}: an async generator cannot be an operation; collect what it yields and return "
            "that, and report progress by a TaskContext"
        )
    name = operation_type or _name(function)
    policy = policy or Policy()
    signature = Signature(function, name)
    executor: Executor
    if isolation == "process":
        from raincheck.operations.python.subprocess_executor import IsolatedExecutor

        executor = IsolatedExecutor(
            function,
            operation_type=name,
            signature=signature,
            max_result_bytes=policy.max_result_bytes,
            inherit=inherit,
        )
    elif inherit:
        raise ConfigurationError(f'{function_name(function)}: inherit is for isolation = "process"')
    elif isolation == "none":
        executor = PythonExecutor(function, operation_type=name, signature=signature)
    else:
        raise ConfigurationError(f'{function_name(function)}: isolation = {isolation!r}; allowed: "none", "process"')
    return Operation(
        operation_type=name,
        description=_first_paragraph(function) if description is None else description,
        executor=executor,
        policy=policy,
        title=title,
        output_schema=signature.output_schema,
    )


class PythonExecutor:
    """Calls the function in this process.

    Cancelling `run` marks the context cancelled. An async function gets `CancelledError`; the thread of a synchronous
    one cannot be stopped from outside and is left behind (see `raincheck.operations.python.threads`).
    """

    def __init__(
        self, function: Callable[..., Any], *, operation_type: str, signature: Signature | None = None
    ) -> None:
        self._function = function
        self._operation_type = operation_type
        self._signature = signature or Signature(function, operation_type)
        self._is_async = is_async(function)

    @property
    def parameters_schema(self) -> Mapping[str, Any]:
        """See `Executor`."""
        return self._signature.parameters_schema

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Executor`."""
        return self._signature.validate(arguments)

    async def run(self, arguments: Mapping[str, Any], context: TaskContext) -> Any:
        """See `Executor`. `sys.exit` in the function ends the attempt, never the server."""
        call = partial(self._function, **self._signature.keywords(arguments, context))
        try:
            return await (self._await(call) if self._is_async else self._in_thread(call, context))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if context.cancelled or (task is not None and task.cancelling()):
                context.mark_cancelled()
                raise
            raise OperationFailed("the operation raised CancelledError, though nobody cancelled it") from error
        except TaskCancelled as error:
            if context.cancelled:
                raise asyncio.CancelledError from error
            raise OperationFailed("the operation raised TaskCancelled, though nobody cancelled it") from error

    async def _await(self, call: Callable[[], Any]) -> Any:
        try:
            return json_value(await call(), self._signature.output)
        except (Exception, asyncio.CancelledError, TaskCancelled):
            raise
        except BaseException as error:
            if by_signal(error):
                raise
            raise stopped(error) from error

    async def _in_thread(self, call: Callable[[], Any], context: TaskContext) -> Any:
        late = partial(thrown_away, context)
        value = await THREADS.run(partial(self._called, call), name=self._operation_type, late=late)
        if inspect.isawaitable(value):

            async def awaited() -> Any:
                return await value

            return await self._await(awaited)
        return value

    def _called(self, call: Callable[[], Any]) -> Any:
        try:
            value = call()
            return value if inspect.isawaitable(value) else json_value(value, self._signature.output)
        except (Exception, asyncio.CancelledError, TaskCancelled):
            raise
        except BaseException as error:
            raise stopped(error) from error


def _underlying(function: Callable[..., Any]) -> Any:
    """What a call of it runs: behind partials and decorators the function, of an object its `__call__`."""
    while isinstance(function, partial):
        function = function.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return function if inspect.isroutine(function) else type(function).__call__


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    while isinstance(function, partial):
        function = function.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if inspect.iscoroutinefunction(function):
        return True
    return not inspect.isroutine(function) and inspect.iscoroutinefunction(type(function).__call__)


def _name(function: Callable[..., Any]) -> str:
    name = function_name(function).rpartition(".")[2]
    if name == "<lambda>":
        raise ConfigurationError(f"{function_name(function)}: a lambda has no name; give operation_type")
    return name


def _first_paragraph(function: Callable[..., Any]) -> str:
    documented = function.func if isinstance(function, partial) else function
    doc = inspect.getdoc(documented) if inspect.isroutine(documented) else None
    return " ".join((doc or "").strip().partition("\n\n")[0].split())
