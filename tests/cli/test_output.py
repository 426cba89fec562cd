"""What becomes of output that nobody takes, and of what a user's modules print; `tasks list --follow`; completion."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raincheck.domain.task import Outcome
from raincheck.domain.transitions import Settle
from support.command_line import CommandLine, Tasks, completed, progressed
from support.servers.server import needed

NOISY = '''
import atexit, os
print("a module prints")
os.system("echo a child prints")
atexit.register(print, "the end prints")

async def build() -> str:
    """Build it."""
    return ""
'''
PROGRAM = (sys.executable, "-m", "raincheck")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "noisy.py").write_text(NOISY)
    (tmp_path / "raincheck.toml").write_text(
        '[state]\nurl = "tasks.db"\n[operations.noisy]\nkind = "python"\ntarget = "noisy:build"\n'
    )
    Tasks(tmp_path / "tasks.db").add(*completed("x" * 100_000), ref="A" * 30)
    return tmp_path


def _sh(line: str) -> subprocess.CompletedProcess[str]:
    whole = line.replace("raincheck", f'"{sys.executable}" -m raincheck')
    return subprocess.run(["sh", "-c", whole], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", ["tasks list", "tasks result AAA", "check --json"])
def test_output_that_nobody_takes_is_one_line_or_none(folder: Path, command: str) -> None:
    told = ("a module prints", "a child prints", "the end prints")

    def ours(done: subprocess.CompletedProcess[str]) -> list[str]:
        return [line for line in done.stderr.splitlines() if line not in told]

    full = _sh(f"raincheck {command} > /dev/full")
    assert ours(full) == ["raincheck: cannot write: No space left on device"]
    assert full.returncode == 1
    assert ours(_sh(f"raincheck {command} | true")) == []
    closed = _sh(f"raincheck {command} >&-")
    assert (ours(closed), closed.returncode) == ([], 0)


def test_stderr_that_is_full_leaves_the_exit_code(folder: Path) -> None:
    assert _sh("raincheck frob 2> /dev/full").returncode == 2


def test_json_is_all_that_is_on_stdout_whatever_modules_print(folder: Path) -> None:
    done = subprocess.run([*PROGRAM, "check", "--json"], capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout)["ok"] is True
    for printed in ("a module prints", "a child prints", "the end prints"):
        assert printed in done.stderr


def test_following_shows_what_becomes_of_tasks_until_ctrl_c(folder: Path) -> None:
    tasks = Tasks(folder / "tasks.db")
    command = [*PROGRAM, "tasks", "list", "--follow", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline())["status"] == "completed"
            task = tasks.add(*progressed())
            told = json.loads(process.stdout.readline())
            assert (told["task_ref"], told["progress"]["fraction"]) == (task.task_ref, 0.4)
            tasks.change(task.task_ref, Settle(fence=1, outcome=Outcome(value="done")))
            told = json.loads(process.stdout.readline())
            assert (told["task_ref"], told["status"]) == (task.task_ref, "completed")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_following_ends_with_its_reader(folder: Path) -> None:
    done = _sh("raincheck tasks list --follow | head -n 1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "AAAAAA" in done.stdout
    assert "completed" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_flags_and_files(
    raincheck: CommandLine, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setenv("_RAINCHECK_COMPLETE", f"{shell}_source")
    script = raincheck()
    assert script.code == 0
    assert "_raincheck_completion" in script.out
    monkeypatch.setenv("_RAINCHECK_COMPLETE", "bash_complete")

    def completed(words: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        return raincheck().out.splitlines()

    assert completed("raincheck tas") == ["plain,tasks"]
    assert completed("raincheck tasks office:rc li") == ["plain,list"]
    assert completed("raincheck tasks list --fo") == ["plain,--follow"]
    assert completed("raincheck serve rep") == ["file,rep"]


def test_the_first_ctrl_c_tells_of_the_second_and_who_runs_nothing_is_no_worker(folder: Path) -> None:
    accepting = {**os.environ, "RAINCHECK_EXECUTION__MAX_CONCURRENCY": "0"}
    with (
        subprocess.Popen([*PROGRAM, "worker"], stderr=subprocess.PIPE, text=True) as worker,
        subprocess.Popen(
            [*PROGRAM, "serve"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=accepting,
        ) as server,
    ):
        try:
            assert worker.stderr is not None
            assert any(line.startswith("raincheck: worker ") for line in worker.stderr)
            worker.send_signal(signal.SIGINT)
            assert "raincheck: stopping; Ctrl-C once more ends it at once\n" in worker.stderr.read()
            assert worker.wait(60) == 0
            told = server.communicate(timeout=60)[1]
            assert "started: it accepts tasks, and workers elsewhere run them" in told
            assert f"serving 1 operations of {folder / 'raincheck.toml'}, store sqlite {folder / 'tasks.db'}" in told
            assert "worker started" not in told
            assert ": worker " not in told
        finally:
            worker.kill()
            server.kill()


def test_a_full_disk_at_the_start_is_called_full(folder: Path) -> None:
    unshare = shutil.which("unshare")
    (folder / "small").mkdir()
    # Large enough for the file, too small for the shared memory of its WAL.
    mounted = f"mount -t tmpfs -o size=16k tmpfs '{folder}/small'"
    inside = f"{mounted} && '{sys.executable}' -m raincheck store migrate --state-url small/tasks.db"
    if unshare is None or subprocess.run([unshare, "-rm", "sh", "-c", mounted], capture_output=True).returncode:
        needed("a mount of one's own (Linux, unshare -rm)")
    assert unshare is not None
    done = subprocess.run([unshare, "-rm", "sh", "-c", inside], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.endswith("tasks.db cannot grow: the disk is full.\n")
