"""Operations of kind command: a program in a process group of its own, never a shell."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from raincheck.errors import ConfigurationError, InvalidParameters, OperationFailed, ResultTooLarge
from raincheck.operations.callers import needs_encryption
from raincheck.operations.command.output import CommandOutput, ProgressPattern, StderrLines
from raincheck.operations.command.stdout_value import OutputForm, stdout_value
from raincheck.operations.context import TaskContext
from raincheck.operations.environment import INHERITED, checked_inherit, filled_in, inherited
from raincheck.operations.exhaustion import exhausted, what_is_exhausted
from raincheck.operations.operation import Operation, Policy
from raincheck.operations.process_group import (
    ProcessGroup,
    cannot_start,
    exit_details,
    exit_text,
    refuse_without_process_groups,
)
from raincheck.operations.schema import ParameterSchema
from raincheck.operations.templates import Template
from raincheck.operations.untrusted_json import NestedTooDeeply, NotJson
from raincheck.operations.validation import still_fitting
from raincheck.operations.validation_messages import Problem, invalid_parameters

_PIPES_SECONDS = 1.0


def command_operation(
    operation_type: str,
    *,
    argv: Sequence[str],
    parameters: Mapping[str, Any],
    description: str,
    policy: Policy | None = None,
    title: str | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    inherit: Sequence[str] = (),
    max_output_bytes: int = 16 * 1024 * 1024,
    output: OutputForm = "auto",
    progress: str | None = None,
    grace_seconds: float = 2.0,
) -> Operation:
    """An operation that runs a program.

    `{parameter}` in an argument is replaced by its value: one argument stays one argument, whatever the value holds.
    Numbers, booleans, arrays and objects stand as JSON shows them. An argument that uses a parameter which is absent
    or null is left out whole, so write `"--quality={quality}"`, not `"-q", "{quality}"`, for an optional one.

    A value must not turn into an option (`-rf`, `--output=…`). Where an argument begins with a placeholder, a text
    that makes it begin with `-` is refused, unless an earlier argument is `--` or the parameter's schema lists the
    value (`enum`, `const`). Numbers may be negative. `"./{file}"` and `"--name={name}"` take any value.

    The program's stdout is the result: JSON where it is such and nothing is lost by that, else the text without one
    trailing newline (bare, `3.10` and `1234e56` are texts); `output` says which of the two. A non-zero exit fails the
    task with `details`: `exit_code` or `signal`, and `stderr_tail` (the last 4 KiB of what is no progress). A line
    `raincheck-progress: 0.4 page 4 of 10` on stderr is its progress, and so is one in which the pattern `progress` is
    found; a carriage return ends a line too, and of a line the first 4 KiB are read. When it ends, is cancelled, or the
    server dies, what it started ends too.

    Its stdin is empty, its working folder a new one that is removed at its end. Of the server's environment it finds
    `PATH`, `HOME`, `LANG`, `LC_ALL`, `LC_CTYPE`, `TZ`, `TMPDIR` and what `inherit` and `env` say; besides
    `RAINCHECK_TASK_REF` and `RAINCHECK_IDEMPOTENCY_KEY` (`TaskContext.idempotency_key`).

    Args:
        operation_type: Its name.
        argv: The program (no placeholder) and its arguments.
        parameters: JSON Schema of the parameters, an object; unknown ones are refused unless it allows them.
        description: For the model that chooses tools.
        policy: How it is run and answered.
        title: A name for people.
        cwd: Its working folder, by default one of its own.
        env: Variables of its own; `${NAME}` in a value is that variable of the server's, taken at the declaration.
        inherit: Which more of the server's variables it finds; none that begins with `RAINCHECK_`.
        max_output_bytes: The bound on stdout; beyond it the task fails with `result_too_large`.
        output: What stdout is: "json", "text", or "auto" as above. What is to be JSON and is none fails the task.
        progress: A regular expression without look-around and back-references, with named groups: `percent` (0 to
            100) or `fraction` (0 to 1) or `done` and `total` (numbers or times, `total` on any line before), and
            `text` for the message.
        grace_seconds: From SIGTERM to SIGKILL.

    Raises:
        ConfigurationError: A placeholder that names no parameter, a schema that is none, and the like.
    """
    if policy is not None and (member := needs_encryption(policy)) is not None:
        raise ConfigurationError(f'{member} is for kind = "python" and "http": a program gets no secret of its caller')
    executor = CommandExecutor(
        operation_type,
        argv=argv,
        parameters=parameters,
        cwd=cwd,
        env=env,
        inherit=inherit,
        output=CommandOutput(max_output_bytes=max_output_bytes, read_as=output, progress=progress),
        grace_seconds=grace_seconds,
    )
    return Operation(
        operation_type=operation_type,
        description=description,
        executor=executor,
        policy=policy or Policy(),
        title=title,
    )


class CommandExecutor:
    """Runs the program; see `command_operation`."""

    def __init__(
        self,
        operation_type: str,
        *,
        argv: Sequence[str],
        parameters: Mapping[str, Any],
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        inherit: Sequence[str] = (),
        output: CommandOutput = CommandOutput(),  # noqa: B008 - frozen
        grace_seconds: float = 2.0,
    ) -> None:
        place = f"operation {operation_type!r}: argv"
        refuse_without_process_groups(f"operation {operation_type!r}: kind command")
        if isinstance(argv, str) or not argv or not argv[0]:
            raise ConfigurationError(
                f'{place}: allowed: a list that begins with a program, as ["ffmpeg", "-i", "{{input}}"]'
            )
        self._operation_type = operation_type
        self._schema = ParameterSchema(parameters, operation_type)
        self._argv = tuple(Template.parse(part, place=place, parameters=self._schema.properties) for part in argv)
        if self._argv[0].names:
            raise ConfigurationError(f"{place}: the program {argv[0]!r} must not come from a parameter")
        self._program = self._argv[0].render({})
        self._cwd = cwd
        self._env = {
            name: filled_in(value, "env", f"operation {operation_type!r}") for name, value in (env or {}).items()
        }
        self._inherit = (*INHERITED, *checked_inherit(inherit, f"operation {operation_type!r}"))
        self._max_output_bytes = output.max_output_bytes
        self._read_as: OutputForm = output.read_as
        self._progress = None
        if output.progress is not None:
            self._progress = ProgressPattern(output.progress, place=f"operation {operation_type!r}: progress")
        self._grace_seconds = grace_seconds

    @property
    def parameters_schema(self) -> Mapping[str, Any]:
        """See `Executor`."""
        return self._schema.schema

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Executor`."""
        stored = self._schema.validate(arguments)
        self._arguments(stored)
        return stored

    def check(self) -> list[str]:
        """What would keep it from running on this machine, one line each."""
        if self._cwd is not None and not os.path.isdir(self._cwd):
            return [f"working folder not found: {self._cwd}"]
        program = self._program
        if os.sep in program and self._cwd is not None:
            program = str(Path(self._cwd) / program)
        path = self._env.get("PATH", os.environ.get("PATH"))
        return [] if shutil.which(program, path=path) else [f"command not found: {self._program}"]

    async def run(self, arguments: Mapping[str, Any], context: TaskContext) -> Any:
        """See `Executor`."""
        rest = await still_fitting(lambda stored: self._arguments(self._schema.validate(stored)), arguments)
        argv = [self._program, *rest]
        try:
            async with _folder(self._cwd) as cwd:
                return await self._result_of(await self._started(argv, cwd, context), context)
        except asyncio.CancelledError:
            context.mark_cancelled()
            raise

    async def _started(self, argv: list[str], cwd: str, context: TaskContext) -> ProcessGroup:
        try:
            return await ProcessGroup.start(
                argv,
                cwd=cwd,
                env=self._environment(context),
                stdout=True,
                stderr=True,
                grace_seconds=self._grace_seconds,
            )
        except (OSError, RuntimeError) as error:
            raise cannot_start(self._program, error, cwd) from error
        except ValueError as error:  # a NUL byte in the environment
            raise OperationFailed(f"command {self._program} cannot be started: {error}") from error

    async def _result_of(self, group: ProcessGroup, context: TaskContext) -> Any:
        assert group.stdout is not None
        assert group.stderr is not None
        said = StderrLines(self._progress, command=f"command {self._program}")
        output = asyncio.create_task(self._read_result(group.stdout))
        pipes = asyncio.gather(output, _listen(group.stderr, said, context))
        exited = asyncio.create_task(group.wait())
        try:
            status = await _finish(group, exited, pipes)
            await group.check_lease()
        finally:
            await group.stop(self._grace_seconds)
            await _end(pipes, exited)
        if status != 0:
            raise OperationFailed(
                f"command {self._program} {exit_text(status)}",
                details={**exit_details(status), "stderr_tail": said.tail()},
            )
        try:
            return stdout_value(output.result(), self._read_as)
        except NestedTooDeeply as error:
            raise OperationFailed(f"the output of command {self._program} is {error}") from None
        except NotJson as error:
            raise OperationFailed(f"the output of command {self._program} is not taken as JSON: {error}") from None

    async def _read_result(self, stdout: asyncio.StreamReader) -> bytes:
        output = bytearray()
        while chunk := await stdout.read(65536):
            output += chunk
            if len(output) > self._max_output_bytes:
                raise ResultTooLarge(
                    f"the output of command {self._program} is larger than {self._max_output_bytes} bytes"
                )
        return bytes(output)

    def _arguments(self, values: Mapping[str, Any]) -> list[str]:
        present = {name: value for name, value in values.items() if value is not None}
        rendered: list[str] = []
        options_over = False
        for template in self._argv[1:]:
            if not template.names <= present.keys():
                continue
            argument = template.render(present)
            if "\0" in argument:
                raise self._refused(template, "must not hold a NUL character")
            if not options_over and argument.startswith("-") and self._could_be_option(template, present):
                raise self._refused(template, 'must not begin with "-" here: the command would take it for an option')
            options_over = options_over or template.source == "--"
            rendered.append(argument)
        return rendered

    def _could_be_option(self, template: Template, values: Mapping[str, Any]) -> bool:
        if not template.begins_with_placeholder:
            return False
        if template.only is None:
            return True
        value = values[template.only]
        schema = self._schema.properties[template.only]
        listed = isinstance(schema, dict) and ("enum" in schema or "const" in schema)
        return isinstance(value, str) and not listed

    def _refused(self, template: Template, problem: str) -> InvalidParameters:
        return invalid_parameters(
            self._operation_type, [Problem(parameter=name, problem=problem) for name in sorted(template.names)]
        )

    def _environment(self, context: TaskContext) -> dict[str, str]:
        return {
            **inherited(self._inherit),
            **self._env,
            "RAINCHECK_TASK_REF": context.task_ref,
            "RAINCHECK_IDEMPOTENCY_KEY": context.idempotency_key,
        }


@asynccontextmanager
async def _folder(cwd: str | None) -> AsyncGenerator[str]:
    """The working folder: the declared one, or an empty one while the block runs."""
    if cwd is not None:
        yield cwd
        return
    try:
        folder = tempfile.mkdtemp(prefix="raincheck-")
    except OSError as error:
        # Python tells a full disk by "No usable temporary directory".
        raise exhausted(what_is_exhausted(error) or "usable temporary folder", "start a command") from error
    try:
        yield folder
    finally:
        try:
            os.rmdir(folder)
        except OSError:
            # A thread: what a command leaves may be much. It goes on where this is cancelled.
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _finish(group: ProcessGroup, exited: asyncio.Task[int], pipes: asyncio.Future[Any]) -> int:
    await asyncio.wait({exited, pipes}, return_when=asyncio.FIRST_COMPLETED)
    if not pipes.done():
        await asyncio.wait({pipes}, timeout=_PIPES_SECONDS)
    if not pipes.done():
        # What the command left in the background holds its pipes open; it ends with the command.
        await group.stop(0)
    await pipes
    return await exited


async def _end(*futures: asyncio.Future[Any]) -> None:
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)


async def _listen(stderr: asyncio.StreamReader, said: StderrLines, context: TaskContext) -> None:
    # Lines cost: in small portions, so that the event loop has others' work done between them.
    while chunk := await stderr.read(8192):
        if report := said.feed(chunk):
            await context.progress(report.fraction, report.message)
