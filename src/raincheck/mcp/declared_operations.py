"""The operations of one server: declared as functions or of any kind, and its own tools that are adopted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, overload

from raincheck.composition.operations import default_policy
from raincheck.config.settings import Settings
from raincheck.domain.caller import Caller
from raincheck.errors import ConfigurationError
from raincheck.mcp.auth.restored_caller import restored_caller
from raincheck.mcp.name_patterns import is_named, naming_none
from raincheck.mcp.surfaces.handle_definitions import HANDLE_NAMES
from raincheck.mcp.wire.protocol_errors import KeepsProtocolErrors
from raincheck.operations.limit_policy import BreakerPolicy, breaker_policy
from raincheck.operations.operation import (
    AnswerBy,
    Dedupe,
    InlineWait,
    Isolation,
    LostPolicy,
    Mode,
    Operation,
    Policy,
    WithoutTasks,
)
from raincheck.operations.secret_names import secrets_of_nothing
from raincheck.operations.webhook import Webhook

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")


class DeclaredOperations:
    """Operations by name, as a server declares and adopts them; a host says what its server has.

    Args:
        patterns: Name patterns of the server's own tools that become operations, unchanged.
        policy: How those tools are run and answered; None: as the settings say, without a timeout.
        settings: The server's.
    """

    def __init__(self, patterns: tuple[str, ...], policy: Policy | None, settings: Settings) -> None:
        self._patterns = patterns
        declared = default_policy(settings)
        # What stands in the server already is there to run as long as it takes.
        self._adopted_policy = policy or replace(declared, timeout_seconds=None)
        self._default_policy = _with_timeout(self._adopted_policy, declared.timeout_seconds)
        self._has_handle_tools = settings.server.handle_tools != "none"
        self._operations: dict[str, Operation] = {}
        self._adopted: set[str] = set()
        self._told: set[str] = set()

    # What a host says of its server.

    def _register(self, operation: Operation) -> None:
        """Make the operation a tool of the server, if there is one yet."""
        raise NotImplementedError

    def _as_called(self, caller: Caller) -> AbstractContextManager[None]:
        """Has an operation's code find of its caller what it asks for, where the server's own tools look for it."""
        return restored_caller(caller)

    async def _existing_tools(self) -> Mapping[str, Callable[[Policy], Operation]]:
        """The server's tools by name, each with what makes an operation of it."""
        raise NotImplementedError

    # Declaring and adopting.

    @overload
    def operation(self, function: Callable[_P, _R], /) -> Callable[_P, _R]: ...
    @overload
    def operation(
        self,
        /,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        isolation: Isolation = "none",
        inherit: Sequence[str] = (),
        ask_first: Mapping[str, Mapping[str, Any]] | None = None,
        mode: Mode | None = None,
        inline_wait_seconds: InlineWait | None = None,
        without_tasks: WithoutTasks | None = None,
        timeout_seconds: float | None = None,
        default_max_wait_seconds: float | None = None,
        max_wait_ceiling_seconds: float | None = None,
        ttl_seconds: float | None = None,
        on_worker_lost: LostPolicy | None = None,
        dedupe: Dedupe | None = None,
        secrets: tuple[str, ...] | None = None,
        max_attempts: int | None = None,
        retry_attempts: int | None = None,
        max_result_bytes: int | None = None,
        max_inline_bytes: int | None = None,
        priority: int | None = None,
        max_running: int | None = None,
        starts_per_minute: float | None = None,
        start_burst: int | None = None,
        breaker: BreakerPolicy | Mapping[str, Any] | None = None,
        webhook: Webhook | None = None,
        answer_by: AnswerBy | None = None,
        callers: tuple[str, ...] | None = None,
        required_scopes: tuple[str, ...] | None = None,
        caller_claims: tuple[str, ...] | None = None,
        caller_token: bool | None = None,
        forward_headers: tuple[str, ...] | None = None,
    ) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...
    def operation(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        isolation: Isolation = "none",
        inherit: Sequence[str] = (),
        ask_first: Mapping[str, Mapping[str, Any]] | None = None,
        **policy: Any,
    ) -> Any:
        """Declare a function as an operation; the function itself stays as it is.

        Sync or async; a parameter annotated `TaskContext` is injected. Every member of `Policy` may be given by name;
        the others come from the settings. `isolation="process"` runs each task in a process of its own, which finds
        `PATH`, `HOME` and the like of the environment and what `inherit` names; `ask_first` are questions to the user
        before the work, by name (`Operation.ask_first`).

        Raises:
            ConfigurationError: The name is taken, or the signature cannot be a schema.
        """
        from raincheck.operations.python.executor import python_operation

        def declare(fn: Callable[..., Any]) -> Callable[..., Any]:
            given = {key: value for key, value in policy.items() if value is not None}
            operation = python_operation(
                fn,
                operation_type=name,
                title=title,
                description=description,
                policy=checked_policy(self._default_policy, given),
                isolation=isolation,
                inherit=inherit,
            )
            self.add(replace(operation, ask_first=ask_first) if ask_first else operation)
            return fn

        return declare if function is None else declare(function)

    def add(self, operation: Operation) -> None:
        """Add an operation of any kind.

        Raises:
            ConfigurationError: The name is taken.
        """
        name = operation.operation_type
        if name in self._operations or name in HANDLE_NAMES:
            raise ConfigurationError(f"There is already an operation or a handle tool named {name!r}.")
        policy = _with_timeout(operation.policy, self._default_policy.timeout_seconds)
        executor = KeepsProtocolErrors(operation.executor, self._as_called)
        operation = self._usable(replace(operation, executor=executor, policy=policy))
        for line in secrets_of_nothing(operation):
            logger.warning("%s", line)
        self._operations[name] = operation
        self._register(operation)

    def _usable(self, operation: Operation) -> Operation:
        """The operation, waited for where a ticket could not be followed: no handle tool is listed."""
        policy = operation.policy
        if self._has_handle_tools or policy.without_tasks != "ticket":
            return operation
        return replace(operation, policy=replace(policy, without_tasks="wait"))

    @property
    def operations(self) -> Mapping[str, Operation]:
        """The operations by name; existing tools are among them once the server has listed or called them."""
        return dict(self._operations)

    async def adopt(self, name: str) -> Operation | None:
        """The operation of that name; of an existing tool where a pattern names it, None for any other tool."""
        if (known := self._operations.get(name)) is not None:
            return known
        if name in HANDLE_NAMES or not is_named(name, self._patterns):
            return None
        return self._adopted_from(await self._existing_tools(), name)

    async def adopt_all(self) -> None:
        """Make operations of all existing tools that a pattern names; a pattern that names none is told in the log."""
        if not self._patterns:
            return
        existing = await self._existing_tools()
        for name in existing:
            if name not in HANDLE_NAMES and is_named(name, self._patterns):
                self._adopted_from(existing, name)
        if existing:
            untold = [each for each in self._patterns if each not in self._told]
            for pattern, line in naming_none(untold, {*existing, *self._operations} - HANDLE_NAMES).items():
                self._told.add(pattern)
                logger.warning("%s", line)

    def _adopted_from(self, existing: Mapping[str, Callable[[Policy], Operation]], name: str) -> Operation | None:
        if name not in self._operations and (make := existing.get(name)) is not None:
            self._operations[name] = self._usable(make(self._adopted_policy))
            self._adopted.add(name)
        return self._operations.get(name)


def _with_timeout(policy: Policy, seconds: float | None) -> Policy:
    return replace(policy, timeout_seconds=seconds) if policy.timeout_seconds is None else policy


def checked_policy(base: Policy, given: Mapping[str, Any]) -> Policy:
    """`base` with the given members.

    Raises:
        ConfigurationError: There is no such member.
    """
    breaker: Any = given.get("breaker")
    if isinstance(breaker, Mapping):
        given = {**given, "breaker": breaker_policy(breaker)}  # pyright: ignore[reportUnknownArgumentType]
    try:
        return replace(base, **given)
    except TypeError:
        unknown = ", ".join(sorted(set(given) - set(Policy.__dataclass_fields__)))
        allowed = ", ".join(Policy.__dataclass_fields__)
        raise ConfigurationError(f"An operation has no setting {unknown}. Allowed: {allowed}.") from None
