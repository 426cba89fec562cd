"""Operations of kind command: arguments, results, failures, and process groups that end whole."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from operations.running import Recorder, alive, context_for, run, soon, start, until

from raincheck.errors import (
    ConfigurationError,
    InvalidParameters,
    OperationFailed,
    ResourcesExhausted,
    ResultTooLarge,
)
from raincheck.operations.command.executor import CommandExecutor, command_operation
from raincheck.operations.environment import INHERITED
from raincheck.operations.operation import Operation
from raincheck.operations.python.threads import ThreadPool

SHOW_ARGUMENTS = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]


def command(argv: list[str], properties: dict[str, Any] | None = None, **options: Any) -> Operation:
    required = options.pop("required", [])
    schema = {"type": "object", "properties": properties or {}, "required": required}
    return command_operation("work", argv=argv, parameters=schema, description="Works.", **options)


def shell(script: str, **options: Any) -> Operation:
    braces = textwrap.dedent(script).replace("{", "{{").replace("}", "}}")
    return command(["/bin/sh", "-c", braces], None, **options)


async def arguments_of(argv: list[str], properties: dict[str, Any], /, **arguments: Any) -> list[str]:
    return await run(command([*SHOW_ARGUMENTS, *argv], properties), **arguments)


async def test_one_placeholder_is_one_argument_and_never_a_shell() -> None:
    nasty = "a b; $(touch /nowhere) | `x` \"'\n{other}"

    shown = await arguments_of(["{text}", "in={text}.txt"], {"text": {"type": "string"}}, text=nasty)

    assert shown == [nasty, f"in={nasty}.txt"]


async def test_values_other_than_text_stand_as_json_shows_them() -> None:
    shown = await arguments_of(
        ["{n}", "{x}", "{yes}", "{many}", "{{literal}}"],
        {"n": {"type": "integer"}, "x": {"type": "number"}, "yes": {"type": "boolean"}, "many": {"type": "array"}},
        n=-3,
        x=0.5,
        yes=True,
        many=["ä", None],
    )

    assert shown == ["-3", "0.5", "true", '["ä",null]', "{literal}"]


async def test_an_argument_of_an_absent_parameter_is_left_out_and_defaults_are_filled_in() -> None:
    properties = {
        "name": {"type": ["string", "null"]},
        "size": {"type": "integer"},
        "kind": {"type": "string", "default": "short"},
    }
    argv = ["first", "{name}", "--size={size}", "--kind={kind}"]

    assert await arguments_of(argv, properties) == ["first", "--kind=short"]
    assert await arguments_of(argv, properties, name=None, size=2) == ["first", "--size=2", "--kind=short"]


@pytest.mark.parametrize("argv", [["{text}"], ["{text}.txt"], ["{empty}{text}"], ["{empty}-x"]])
def test_a_value_cannot_become_an_option(argv: list[str]) -> None:
    operation = command(["cat", *argv], {"text": {"type": "string"}, "empty": {"type": "string"}})

    with pytest.raises(InvalidParameters, match='must not begin with "-" here'):
        operation.executor.validate({"text": "-rf", "empty": ""})


@pytest.mark.parametrize("argv", [["--", "{text}"], ["./{text}"], ["--name={text}"], ["{listed}"]])
async def test_a_value_may_begin_with_a_dash_where_it_is_no_option_or_is_listed(argv: list[str]) -> None:
    properties = {"text": {"type": "string"}, "listed": {"enum": ["-v"]}}

    shown = await arguments_of(argv, properties, text="-v", listed="-v")

    assert shown[-1].endswith("-v")


def test_parameters_are_checked_before_the_ticket() -> None:
    operation = command(
        ["cat", "{page}"],
        {
            "page": {"type": "integer", "minimum": 1},
            "day": {"type": "string", "format": "date"},
            "z": {"type": "string"},
        },
        required=["page"],
    )

    for arguments, told in (
        ({}, "page: required, and missing"),
        ({"page": 0}, "page: should be at least 1 (got 0)"),
        ({"page": "x" * 100_000}, 'page: should be of type "integer" (got "xxx'),
        ({"page": 1, "colour": 2}, "colour: unknown parameter; there are: page, day, z"),
        ({"page": 1, "day": "tomorrow"}, 'day: should be in the format "date" (got "tomorrow")'),
        ({"page": float("nan")}, "NaN"),
    ):
        with pytest.raises(InvalidParameters) as caught:
            operation.executor.validate(arguments)
        assert told in caught.value.message
        assert len(caught.value.message) < 400
        assert caught.value.details["errors"]
    with pytest.raises(InvalidParameters, match="NUL"):
        command(["cat", "x{z}"], {"z": {"type": "string"}}).executor.validate({"z": "\0"})


@pytest.mark.parametrize(
    ("argv", "schema", "told"),
    [
        (["cat", "{pgae}"], {}, "names no parameter by {pgae}; parameters: page"),
        (["{page}"], {}, "must not come from a parameter"),
        (["cat", "{"], {}, "write '{{' for a literal brace"),
        ([], {}, "begins with a program"),
        ("cat {page}", {}, "begins with a program"),
        (["cat"], {"type": "array"}, 'allowed: "object"'),
        (["cat"], {"properties": {"page": {"type": "integr"}}}, "parameters.properties.page.type"),
        (["cat"], {"properties": {"page": {"$ref": "https://example.com/x"}}}, "leads nowhere"),
        (["cat"], {"properties": {"page": {"$ref": "#/properties/page"}}}, '"#/properties/page" leads back to itself'),
        (
            ["cat"],
            {"properties": {"a": {"allOf": [{"$ref": "#/properties/b"}]}, "b": {"not": {"$ref": "#/properties/a"}}}},
            "leads back to itself",
        ),
    ],
)
def test_a_wrong_declaration_stops_the_start_with_one_line(argv: Any, schema: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        command_operation(
            "work", argv=argv, parameters={"properties": {"page": {"type": "integer"}}, **schema}, description=""
        )
    assert told in caught.value.message
    assert caught.value.message.startswith("operation 'work'")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("script", "value"),
    [
        ("echo '{\"pages\": 3}'", {"pages": 3}),
        ("echo 42", 42),
        ("printf 'two\\nlines\\n\\n'", "two\nlines\n"),
        ("true", ""),
        ("printf '\\377'", "\ufffd"),
        ("echo NaN", "NaN"),
        ("cat; echo over", "over"),
        ("echo 1234e56", "1234e56"),
        ("echo 12e4567", "12e4567"),
        ("echo 3.10", "3.10"),
        ("echo 1.0e5", "1.0e5"),
        ("echo 007", "007"),
        ("echo -0", "-0"),
        ("echo 9007199254740993", "9007199254740993"),
        ("echo 9007199254740991", 9007199254740991),
        ("echo 0.25", 0.25),
        ("echo '\"a\"'", "a"),
        ('echo \'{"a": 1, "a": 2}\'', '{"a": 1, "a": 2}'),
        ("echo '[1e400]'", "[1e400]"),
        ("printf '\\357\\273\\277[{\"v\": 3.10}]'", [{"v": 3.1}]),
        ("echo '{\"amount\": 0.12345678901234567890}'", '{"amount": 0.12345678901234567890}'),
        ("echo '[1.00000000000000000001]'", "[1.00000000000000000001]"),
        ("echo '[1.5e-400]'", "[1.5e-400]"),
        ("echo '[1e-99999999999999999999]'", "[1e-99999999999999999999]"),
        ("echo '[0.10000000000000001, 0.10000000000000000555, 1234e56]'", [0.1, 0.1, 1234e56]),
        ("echo '{\"id\": 12345678901234567890}'", {"id": 12345678901234567890}),
        ("""printf '%s' '"caf\\udce9"'""", "caf\ufffd"),
    ],
)
async def test_stdout_is_the_result(script: str, value: Any) -> None:
    assert await run(shell(script)) == value


async def test_stdout_is_what_the_operation_says_that_it_is() -> None:
    assert await run(shell("echo 42", output="text")) == "42"
    assert await run(shell("echo 1234e5", output="json")) == 123400000.0
    for script, told in [("echo hello", "not JSON"), ("echo 12e4567", "a number beyond"), ("true", "not JSON")]:
        with pytest.raises(OperationFailed, match=f"the output of command /bin/sh is not taken as JSON: {told}"):
            await run(shell(script, output="json"))


async def test_a_failing_command_tells_its_exit_status_and_the_end_of_stderr() -> None:
    operation = shell("head -c 10000 /dev/zero | tr '\\0' x >&2; echo 'no such page' >&2; echo half; exit 3")

    with pytest.raises(OperationFailed) as caught:
        await run(operation)

    assert caught.value.message == "command /bin/sh exited with status 3"
    assert caught.value.details["exit_code"] == 3
    assert caught.value.details["stderr_tail"].endswith("no such page\n")
    assert len(caught.value.details["stderr_tail"]) == 4096


async def test_a_command_that_a_signal_ends_tells_which() -> None:
    with pytest.raises(OperationFailed, match="was ended by SIGKILL") as caught:
        await run(shell("kill -9 $$"))
    assert caught.value.details["signal"] == "SIGKILL"


async def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("no program")
    cases: list[tuple[list[str], dict[str, Any], str]] = [
        (["no-such-program"], {}, "command not found: no-such-program"),
        ([str(plain)], {}, f"command not executable: {plain}"),
        (["cat"], {"cwd": str(tmp_path / "gone")}, f"working folder not found: {tmp_path / 'gone'}"),
    ]
    for argv, options, told in cases:
        operation = command(argv, **options)
        with pytest.raises(OperationFailed) as caught:
            await run(operation)
        assert caught.value.message == told
    assert CommandExecutor("x", argv=["cat"], parameters={}, cwd=str(tmp_path / "gone")).check() == [
        f"working folder not found: {tmp_path / 'gone'}"
    ]
    assert CommandExecutor("x", argv=["no-such-program"], parameters={}).check() == [
        "command not found: no-such-program"
    ]
    assert CommandExecutor("x", argv=["sh"], parameters={}).check() == []


async def test_an_argument_that_the_system_refuses_fails_the_task() -> None:
    with pytest.raises(OperationFailed, match="Argument list too long"):
        await arguments_of(["{text}"], {"text": {"type": "string"}}, text="x" * 1_000_000)


async def test_more_output_than_allowed_ends_the_command() -> None:
    operation = shell("echo $$ >&2; exec cat /dev/zero", max_output_bytes=100_000)

    with pytest.raises(ResultTooLarge, match="larger than 100000 bytes"):
        await soon(run(operation))


async def test_stored_parameters_that_no_longer_fit_fail_the_task_and_start_nothing(tmp_path: Path) -> None:
    then = command(["touch", str(tmp_path / "started"), "{topic}"], {"topic": {"type": "string"}}, required=["topic"])
    stored = then.executor.validate({"topic": "rain"})
    properties = {"subject": {"type": "string"}}
    for required in (["subject"], []):
        now = command(["touch", str(tmp_path / "started"), "{subject}"], properties, required=required)

        with pytest.raises(OperationFailed, match=r"do not fit the operation as it is now: .*(subject|topic)"):
            await now.executor.run(stored, context_for(now))

    assert not (tmp_path / "started").exists()


async def test_progress_lines_on_stderr_reach_the_task() -> None:
    backend = Recorder()
    operation = shell(
        """
        echo 'noise' >&2
        echo 'raincheck-progress: 0.4 page 4 of 10' >&2
        sleep 0.2
        echo 'raincheck-progress: warming up' >&2
        """
    )

    await run(operation, backend)

    assert [(p.fraction, p.message) for p in backend.reports] == [(0.4, "page 4 of 10"), (None, "warming up")]


FFMPEG = r"Duration: (?P<total>[\d:.]+)|time=(?P<done>[\d:.]+).*speed=\s*(?P<text>\S+)"


@pytest.mark.parametrize(
    ("pattern", "written", "told", "kept"),
    [
        (r"(?P<percent>\d+)%", "start\n 45% of 2 GB\r 46% of 2 GB\r\n\ndisk full", (0.46, None), "start\ndisk full"),
        (r"(?P<percent>[\d.]+)%", "%\r4.5%\r9.%", (0.045, None), "%\r"),
        (r"at (?P<fraction>\S+): (?P<text>.*)", "at 0.25: é\r\nat rest: now\n", (None, "now"), ""),
        (r"(?P<done>\d+)/(?P<total>\d+)", "0/0\r3/4\r", (0.75, None), "0/0\r"),
        (
            FFMPEG,
            "  Duration: 00:01:40.00, start: 0\nframe= 1 time=00:00:25.00 speed=2.1x\r",
            (0.25, "2.1x"),
            "  Duration: 00:01:40.00, start: 0\n",
        ),
        (
            "(?P<text>step .)",
            "raincheck-progress: 0.1 first\nstep 2\rraincheck-progress: 0.5\rno\r",
            (0.5, None),
            "no\r",
        ),
    ],
    ids=["percent", "cut off", "fraction and text", "done of total", "ffmpeg", "its own lines too"],
)
async def test_progress_is_read_as_the_operation_says_and_is_no_part_of_the_tail(
    pattern: str, written: str, told: tuple[float | None, str | None], kept: str
) -> None:
    backend = Recorder()
    script = f"import sys; sys.stderr.buffer.write({written.encode()!r}); sys.stderr.flush(); sys.exit(3)"

    with pytest.raises(OperationFailed) as caught:
        await run(command([sys.executable, "-c", script], progress=pattern), backend)

    assert (backend.reports[-1].fraction, backend.reports[-1].message) == told
    assert caught.value.details == {"exit_code": 3, "stderr_tail": kept}


async def test_of_a_long_line_the_tail_keeps_the_end_and_progress_lines_are_dropped_whole() -> None:
    script = (
        "import sys; e = sys.stderr; e.write('x' * 9000 + '!\\n'); e.write('50%' + 'y' * 9000 + '\\r'); sys.exit(1)"
    )

    with pytest.raises(OperationFailed) as caught:
        await run(command([sys.executable, "-c", script], progress=r"^(?P<percent>\d+)%"))

    assert caught.value.details["stderr_tail"] == "x" * 4094 + "!\n"


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"\d+%", "must name what it finds; allowed: one of"),
        (r"(?P<percentage>\d+)%", "must name what it finds"),
        (r"(?P<done>\d+) done", "must name what it finds"),
        (r"(?P<percent>\d+)% (?P<fraction>\d)", "must name what it finds"),
        (r"(?P<percent>\d+%", "is no regular expression: unclosed group"),
        (r"(?<=x)(?P<percent>\d+)", "is no regular expression: look-around"),
    ],
)
def test_a_pattern_that_finds_no_progress_stops_the_start(pattern: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(why)) as caught:
        shell("true", progress=pattern)
    assert "operation 'work': progress: " in caught.value.message
    assert "\n" not in caught.value.message


async def test_a_pattern_of_bad_will_is_given_up_and_the_command_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    # Backtracking alone would take some 2**60 steps for the first line.
    pattern = r"^(?:a|aa|aaa|a+)+(?:b|c+c+)*$|(?P<percent>\d+)%"
    operation = shell(f"echo {'a' * 300}.45% >&2; echo {'a' * 300}.46% >&2; echo done", progress=pattern)
    began = time.thread_time()

    assert await run(operation, Recorder()) == "done"

    assert time.thread_time() - began < 2
    assert [each.message for each in caplog.records if each.levelname == "WARNING"] == [
        "command /bin/sh: 'progress' is too slow a pattern for its stderr, and is not used again"
    ]


async def test_a_long_line_on_stderr_does_not_hold_the_event_loop() -> None:
    # 45 kB of this held it for 108 s.
    line = "print('raincheck-progress: ' + '1' * 12_000 + 'x', file=sys.stderr)"
    backend = Recorder()
    operation = command([sys.executable, "-c", f"import sys; {line}; {line.replace('1', '2')}"])
    began = time.thread_time()

    await run(operation, backend)

    assert time.thread_time() - began < 2
    assert backend.reports
    assert all(len(report.message or "") <= 500 for report in backend.reports)


async def test_of_the_servers_environment_a_command_finds_a_few_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAINCHECK_STATE__URL", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "SECRET", "PLAIN"):
        monkeypatch.setenv(name, f"the {name}")
    monkeypatch.setenv("HOME", "/home/of-the-server")
    operation = command(["env"], env={"MORE": "2", "TOKEN": "${SECRET}!"}, inherit=["PLAIN", "UNSET"])

    lines: str = await operation.executor.run({}, context_for(operation, key="key-1"))

    shown = dict(line.split("=", 1) for line in lines.splitlines())
    fixed = {name: os.environ[name] for name in INHERITED if name in os.environ}
    assert shown == {
        **fixed,
        "HOME": "/home/of-the-server",
        "PLAIN": "the PLAIN",
        "MORE": "2",
        "TOKEN": "the SECRET!",
        "RAINCHECK_TASK_REF": "task-1",
        "RAINCHECK_IDEMPOTENCY_KEY": "key-1",
        "RAINCHECK_ORPHAN_REAPER": shown["RAINCHECK_ORPHAN_REAPER"],
    }
    with pytest.raises(ConfigurationError, match="RAINCHECK_STATE__URL is one of the server's own settings"):
        command(["env"], inherit=["RAINCHECK_STATE__URL"])


async def test_a_command_runs_in_an_empty_folder_that_goes_with_it(tmp_path: Path) -> None:
    operation = shell("ls -A; pwd; mkdir -p deep/er; echo x > deep/er/file; chmod 500 deep; kill -9 $$")

    with pytest.raises(OperationFailed, match="SIGKILL"):
        await run(operation)
    first, second = [await run(shell("ls -A; pwd; mkdir -p deep/er; echo x > deep/er/file")) for _ in range(2)]

    assert first != second
    assert Path(first).parent == Path(tempfile.gettempdir())  # one line: the folder was empty
    assert not Path(first).exists()
    assert await run(shell("pwd", cwd=str(tmp_path))) == str(tmp_path)
    assert [each for each in Path(tempfile.gettempdir()).iterdir() if str(each) in (first, second)] == []


HIDES = """
import asyncio, ctypes, json, os, sys
from raincheck.operations.command.executor import command_operation
from operations.running import run

prctl = ctypes.CDLL(None).prctl
if os.getuid() == 0:  # root may read everything
    os.setgid(65534)
    os.setuid(65534)
    prctl(4, 1, 0, 0, 0)
assert "hush" in open(f"/proc/{os.getpid()}/environ").read()
READ = "cat /proc/$1/environ /proc/$1/mem 2>/dev/null | grep -c hush; cat /proc/$$/environ | grep -c RAINCHECK_TASK_REF"
argv = ["/bin/sh", "-c", READ, "sh", str(os.getpid())]
operation = command_operation("look", argv=argv, parameters={}, description="")
print(asyncio.run(run(operation)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no other system has a /proc with a way to hide")
def test_no_child_reads_the_environment_of_the_server() -> None:
    environment = {**os.environ, "SECRET": "hush", "PYTHONPATH": str(Path(__file__).parents[1])}
    found = subprocess.run(
        [sys.executable, "-c", HIDES], env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False
    )
    assert (found.stdout.split(), found.returncode) == (["0", "1"], 0), found.stderr


@contextmanager
def no_descriptors_left() -> Generator[None]:
    """While the block runs, this process can open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    taken: list[int] = []
    try:
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_a_command_may_be_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    operation = shell("echo here")
    assert await run(operation) == "here"
    caplog.clear()
    with no_descriptors_left():
        for _ in range(50):
            with pytest.raises(ResourcesExhausted, match="no file descriptors left") as caught:
                await run(operation)
            assert (caught.value.code, caught.value.retryable) == ("internal", True)
    assert len([record for record in caplog.records if record.levelno >= logging.INFO]) <= 1
    assert await run(operation) == "here"


@pytest.mark.parametrize(
    ("number", "what"),
    [(errno.ENFILE, "file descriptors"), (errno.ENOMEM, "memory"), (errno.EAGAIN, "processes")],
)
async def test_what_the_machine_is_out_of_is_told(number: int, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(ResourcesExhausted, match=f"no {what} left to start /bin/sh"):
        await run(shell("echo here"))


async def test_a_command_that_no_thread_can_wait_for_does_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    def no_thread(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pidfd_open", refuse, raising=False)
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(ResourcesExhausted, match="no threads left"):
            await run(shell(f"sleep 0.3; touch {tmp_path / 'ran'}"))
        with pytest.raises(ResourcesExhausted, match="no threads left"):
            await ThreadPool().run(lambda: None, name="report")
    assert [each for each in psutil.Process().children() if each.name() == "sh" and "sleep" in each.cmdline()] == []
    assert not (tmp_path / "ran").exists()


async def test_a_full_temporary_folder_may_be_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(ResourcesExhausted, match="no usable temporary folder left"):
        await run(shell("echo here"))


FAMILY = """
    sh -c 'trap "" TERM; echo $$ >> {file}; while :; do sleep 0.05; done' &
    (trap '' TERM; sh -c 'trap "" TERM; echo $$ >> {file}; while :; do sleep 0.05; done') &
    echo $$ >> {file}
    {last}
"""


def family(tmp_path: Path, last: str, **options: Any) -> tuple[Operation, Path]:
    """A command with a child and a grandchild that ignore SIGTERM; each writes its process id."""
    file = tmp_path / "pids"
    script = textwrap.dedent(FAMILY).format(file=file, last=last)
    path = tmp_path / "family.sh"
    path.write_text(script)
    return command(["/bin/sh", str(path)], **options), file


def pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Generator[None]:
    """Kill what a failed test left running."""
    yield
    for pid in pids(tmp_path / "pids"):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


async def test_cancelling_ends_the_whole_group_before_it_goes_through(tmp_path: Path) -> None:
    operation, file = family(tmp_path, "wait", grace_seconds=0.2)
    context = context_for(operation)
    task = start(operation, context)
    await until(lambda: len(pids(file)) == 3)
    family_pids = pids(file)
    assert all(alive(pid) for pid in family_pids)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)

    assert [pid for pid in family_pids if alive(pid)] == []
    assert context.cancelled


async def test_cancelling_while_the_command_starts_ends_it_too() -> None:
    operation = command(["sleep", "4321"])
    context = context_for(operation)
    task = start(operation, context)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert context.cancelled
    assert [child for child in psutil.Process().children() if "4321" in child.cmdline()] == []


async def test_a_second_cancellation_does_not_leave_the_group_behind(tmp_path: Path) -> None:
    operation, file = family(tmp_path, "wait", grace_seconds=0.3)
    task = start(operation, context_for(operation))
    await until(lambda: len(pids(file)) == 3)

    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)

    assert [pid for pid in pids(file) if alive(pid)] == []


async def test_a_command_that_listens_to_sigterm_may_clean_up(tmp_path: Path) -> None:
    ready, cleaned = tmp_path / "ready", tmp_path / "cleaned"
    operation = shell(f"trap 'touch {cleaned}; exit 0' TERM; touch {ready}; while :; do sleep 0.05; done")
    task = start(operation, context_for(operation))
    await until(ready.exists)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)

    assert cleaned.exists()


async def test_what_a_finished_command_left_in_the_background_ends_with_it(tmp_path: Path) -> None:
    operation, file = family(
        tmp_path, f"while [ $(wc -l < {tmp_path / 'pids'}) -lt 3 ]; do sleep 0.02; done; echo done", grace_seconds=0.1
    )

    assert await soon(run(operation)) == "done"

    assert len(pids(file)) == 3
    assert [pid for pid in pids(file) if alive(pid)] == []


async def test_a_loop_that_closes_down_leaves_no_group(tmp_path: Path) -> None:
    operation, file = family(tmp_path, "wait", grace_seconds=0.1)

    async def main() -> None:
        task = start(operation, context_for(operation))
        await until(lambda: len(pids(file)) == 3)
        del task

    # asyncio.run cancels what is left, as a server does that ends by an exception.
    await asyncio.to_thread(asyncio.run, main())

    await until(lambda: not any(alive(pid) for pid in pids(file)))


SERVER = """
    import asyncio, sys
    sys.path[:0] = {tests!r}
    from operations.running import run
    from raincheck.operations.command.executor import command_operation

    work = command_operation("work", argv={argv!r}, parameters={{}}, description="")
    asyncio.run(run(work))
"""


@contextmanager
def server_running(argv: list[str]) -> Generator[subprocess.Popen[bytes]]:
    """A process of its own that runs the command."""
    tests = [path for path in sys.path if path.endswith("tests")]
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SERVER).format(tests=tests, argv=argv)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_killing_the_server_ends_its_commands(tmp_path: Path) -> None:
    file, script = tmp_path / "pids", tmp_path / "family.sh"
    script.write_text(textwrap.dedent(FAMILY).format(file=file, last="wait"))
    with server_running(["/bin/sh", str(script)]) as server:
        await until(lambda: len(pids(file)) == 3)
        server.send_signal(signal.SIGKILL)
        await until(lambda: not any(alive(pid) for pid in pids(file)))


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
async def test_killing_the_server_ends_even_what_left_the_group_or_was_not_yet_told_of(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    leave = f"import os, time; os.setsid(); print(os.getpid(), file=open({str(file)!r}, 'w')); time.sleep(60)"
    script = tmp_path / "leave.sh"
    script.write_text(f'{sys.executable} -c "{leave}" & wait\n')
    with server_running(["/bin/sh", str(script)]) as server:
        await until(lambda: len(pids(file)) == 1)
        server.send_signal(signal.SIGKILL)
        await until(lambda: not any(alive(pid) for pid in pids(file)))


async def test_many_commands_at_once_all_come_back_and_leave_no_descriptor() -> None:
    operation = command([*SHOW_ARGUMENTS, "{n}"], {"n": {"type": "integer"}})
    await run(operation, n=0)
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else set[str]()

    results = await asyncio.gather(*(run(operation, n=n) for n in range(20)))

    assert results == [[str(n)] for n in range(20)]
    await asyncio.sleep(0)
    if before:
        assert set(os.listdir("/proc/self/fd")) <= before


def test_a_secret_in_the_environment_is_not_in_a_repr() -> None:
    operation = command(["cat"], env={"TOKEN": "hunter2"})
    assert "hunter2" not in repr(operation)
    assert "hunter2" not in json.dumps(operation.executor.parameters_schema)
