"""From an operation's table to the operation, ready to run, and to its policy."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from raincheck.composition.adapters import require_signing
from raincheck.errors import ConfigurationError

if TYPE_CHECKING:
    from raincheck.config.sections.operations import CommandSettings, HttpSettings, PythonSettings
    from raincheck.config.settings import Settings
    from raincheck.operations.operation import Operation, Policy


def make_operations(settings: Settings) -> dict[str, Operation]:
    """Every operation of the file, ready to run: targets are imported, schemas compiled, programs looked for.

    Raises:
        ConfigurationError: A declaration is wrong; the message names its table and file.
        MissingDependency: An operation's kind needs an extra that is not installed.
    """
    return {name: _make_operation(name, settings) for name in settings.operations}


def default_policy(settings: Settings) -> Policy:
    """The policy of an operation that says nothing of its own: [execution] and [state]."""
    from raincheck.operations.operation import Policy

    execution = settings.execution
    return Policy(
        inline_wait_seconds=execution.inline_wait_seconds,
        timeout_seconds=execution.default_timeout_seconds,
        default_max_wait_seconds=min(execution.default_max_wait_seconds, execution.max_wait_ceiling_seconds),
        max_wait_ceiling_seconds=execution.max_wait_ceiling_seconds,
        ttl_seconds=settings.state.ttl_seconds,
        max_attempts=execution.max_attempts,
        retry_attempts=execution.retry_attempts,
        max_result_bytes=execution.max_result_bytes,
        max_inline_bytes=settings.results.max_inline_bytes,
    )


def policy_of(settings: Settings, operation_type: str) -> Policy:
    """The policy of a declared operation: its own table, and what it inherits."""
    from raincheck.operations.limit_policy import breaker_policy
    from raincheck.operations.webhook import Webhook

    table = settings.operations[operation_type]
    policy = default_policy(settings)
    own = {field.name: getattr(table, field.name, None) for field in fields(policy)}
    if table.breaker is not None:
        own["breaker"] = breaker_policy(dict(table.breaker))
    if table.webhook is not None:
        require_signing()
        own["webhook"] = Webhook(**dict(table.webhook))
    policy = replace(policy, **{name: value for name, value in own.items() if value is not None})
    # A ceiling of its own also lowers the deadline that it inherits.
    deadline = min(policy.default_max_wait_seconds, policy.max_wait_ceiling_seconds)
    return replace(policy, default_max_wait_seconds=deadline)


def _make_operation(name: str, settings: Settings) -> Operation:
    from raincheck.operations.callers import check_encrypted

    table = settings.operations[name]
    with _in_table(name, settings):
        policy = policy_of(settings, name)
        check_encrypted(name, policy, encrypts=bool(settings.encryption.keys))
        if table.kind == "python":
            operation = _python(name, table, policy, settings)
        elif table.kind == "command":
            operation = _command(name, table, policy, settings)
        else:
            operation = _http(name, table, policy, settings)
        if settings.execution.max_concurrency:
            check_machine(operation)
        return operation


def check_machine(operation: Operation) -> None:
    """See that what an operation needs of the machine that runs it is there: its program, its folder.

    Raises:
        ConfigurationError: It is not.
    """
    look: Callable[[], list[str]] | None = getattr(operation.executor, "check", None)
    for problem in look() if look else []:
        raise ConfigurationError(f"operation {operation.operation_type!r}: {problem}")


def _python(name: str, table: PythonSettings, policy: Policy, settings: Settings) -> Operation:
    from raincheck.operations.python.executor import python_operation
    from raincheck.operations.python.loading import load_target

    # What a module prints while it is imported must not get between the messages of the stdio transport.
    with redirect_stdout(sys.stderr):
        function = load_target(table.target, settings.folder)
    return python_operation(
        function,
        operation_type=name,
        description=table.description or None,
        title=table.title,
        policy=policy,
        isolation=table.isolation,
        inherit=_inherit(table, settings) if table.isolation == "process" else (),
    )


def _command(name: str, table: CommandSettings, policy: Policy, settings: Settings) -> Operation:
    from raincheck.operations.command.executor import command_operation

    return command_operation(
        name,
        argv=[_program(table, settings), *table.argv[1:]],
        parameters=table.parameters,
        description=table.description,
        policy=policy,
        title=table.title,
        cwd=None if table.cwd is None else str(settings.folder / table.cwd),
        env=table.env,
        inherit=_inherit(table, settings),
        max_output_bytes=policy.max_result_bytes if table.max_output_bytes is None else table.max_output_bytes,
        output=table.output,
        progress=table.progress,
    )


def _program(table: CommandSettings, settings: Settings) -> str:
    """The program; a relative path starts at the configuration file's folder where the command has none."""
    program = table.argv[0]
    if table.cwd is not None or os.sep not in program:
        return program
    folder = str(settings.folder.absolute()).replace("{", "{{").replace("}", "}}")
    return os.path.join(folder, program)


def _inherit(table: CommandSettings | PythonSettings, settings: Settings) -> tuple[str, ...]:
    return settings.execution.inherit if table.inherit is None else table.inherit


def _http(name: str, table: HttpSettings, policy: Policy, settings: Settings) -> Operation:
    from raincheck.operations.http.executor import http_operation
    from raincheck.operations.http.job_api import PollSettings

    if table.completion == "callback" and settings.server.public_url is None:
        raise ConfigurationError("completion = \"callback\" needs 'public_url' in [server]: where to call back")
    return http_operation(
        name,
        method=table.method,
        url=table.url,
        parameters=table.parameters,
        headers=table.headers,
        body=table.body,
        form=table.form,
        raw=table.raw,
        description=table.description,
        policy=policy,
        title=table.title,
        max_response_bytes=policy.max_result_bytes if table.max_response_bytes is None else table.max_response_bytes,
        accepted=table.accepted,
        poll=None if table.poll is None else PollSettings(**dict(table.poll)),
        completion=table.completion,
        idempotency_header=table.idempotency_header,
    )


@contextmanager
def _in_table(name: str, settings: Settings) -> Generator[None]:
    from raincheck.config.settings import table_name

    try:
        yield
    except ConfigurationError as error:
        message = error.message.removeprefix(f"operation {name!r}: ")
        table = table_name("operations", name)
        raise ConfigurationError(f"{table} of {settings.source}: {message}", details=error.details) from error
