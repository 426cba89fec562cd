"""A process is called gone on proof only, and is never mistaken for another one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from raincheck.runtime.process_identity import (
    Kernel,
    ProcessIdentity,
    ProcessStat,
    identity_in,
    is_gone,
    own_identity,
    parse_stat,
    worker_id,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

STAT = "{pid} ({name}) {state} 1 2 2 0 -1 4194560 1 0 0 0 5 6 0 0 20 0 {threads} 0 {started} 1 2 3"
OWN, OTHER = 100, 200


def stat(pid: int, started: int, *, state: str = "S", threads: int = 1, name: str = "python") -> str:
    return STAT.format(pid=pid, name=name, state=state, threads=threads, started=started)


class FakeKernel(Kernel):
    """A machine in files, links and the errors of signal 0."""

    platform = "linux"

    def __init__(self) -> None:
        self.files: dict[str, str | OSError] = {
            "/proc/self/status": f"Name:\tpython\nPid:\t{OWN}\nNSpid:\t{OWN}\n",
            "/proc/sys/kernel/random/boot_id": "b-1\n",
            "/proc/self/stat": stat(OWN, 50),
        }
        self.links: dict[str, str] = {"/proc/self/ns/pid": "pid:[1]", "/proc/self/ns/time": "time:[1]"}
        self.probes: Mapping[int, OSError | None] = {}

    def pid(self) -> int:
        return OWN

    def read(self, path: str) -> str:
        found = self.files.get(path, FileNotFoundError(path))
        if isinstance(found, OSError):
            raise found
        return found

    def link(self, path: str) -> str:
        if path not in self.links:
            raise FileNotFoundError(path)
        return self.links[path]

    def probe(self, pid: int) -> None:
        error = self.probes.get(pid, ProcessLookupError())
        if error is not None:
            raise error

    def boot_session(self) -> str:
        raise AssertionError("only on macOS")


def own(kernel: FakeKernel) -> ProcessIdentity:
    identity = own_identity(kernel)
    assert identity is not None
    return identity


@pytest.mark.parametrize("host", ["box", "my-box-12-ab", "a@b", "x-1-ab@0123456789abcdef.7", ""])
@pytest.mark.parametrize("started", ["50", ""])
def test_a_workers_name_carries_its_process(host: str, started: str) -> None:
    identity = ProcessIdentity("0123456789abcdef", 4711, started)
    name = worker_id(host, "00ff00ff", 4711, identity)
    assert name.startswith(f"{host}-4711-00ff00ff")
    assert identity_in(name) == identity


@pytest.mark.parametrize(
    "name",
    [
        worker_id("box", "00ff00ff", 4711, None),
        "dead",
        "",
        "box-0-ab@0123456789abcdef.7",
        "box-4294967296-ab@0123456789abcdef.7",
        "box-12-ab@0123456789abcdef.7\n",
        "box-12-ab@0123456789abcde.7",
        "box--12-ab@0123456789abcdef.7x",
    ],
)
def test_a_name_without_an_identity_has_none(name: str) -> None:
    assert identity_in(name) is None


def test_no_such_process_is_gone() -> None:
    kernel = FakeKernel()
    assert is_gone(own(kernel)._replace(pid=OTHER), own(kernel), kernel)


def test_a_process_that_runs_is_not_gone() -> None:
    kernel = FakeKernel()
    kernel.probes = {OTHER: None}
    kernel.files[f"/proc/{OTHER}/stat"] = stat(OTHER, 70)
    assert not is_gone(own(kernel)._replace(pid=OTHER, started="70"), own(kernel), kernel)


def test_a_process_id_that_was_given_out_again_is_gone() -> None:
    kernel = FakeKernel()
    kernel.probes = {OTHER: None, OWN: None}
    kernel.files[f"/proc/{OTHER}/stat"] = stat(OTHER, 71)
    assert is_gone(own(kernel)._replace(pid=OTHER, started="70"), own(kernel), kernel)
    # To this very process, as in a container whose server is always process 1.
    kernel.files[f"/proc/{OWN}/stat"] = stat(OWN, 50)
    assert is_gone(own(kernel)._replace(started="49"), own(kernel), kernel)
    assert not is_gone(own(kernel), own(kernel), kernel)


def test_another_user_s_process_is_judged_by_what_may_be_read() -> None:
    kernel = FakeKernel()
    kernel.probes = {OTHER: PermissionError()}
    kernel.files[f"/proc/{OTHER}/stat"] = stat(OTHER, 70)
    assert not is_gone(own(kernel)._replace(pid=OTHER, started="70"), own(kernel), kernel)
    assert is_gone(own(kernel)._replace(pid=OTHER, started="69"), own(kernel), kernel)


@pytest.mark.parametrize("signalled", [None, PermissionError()])
@pytest.mark.parametrize(
    "hidden",
    [PermissionError(), FileNotFoundError(), ProcessLookupError(), "", "200 (python) S 1 2", stat(200, 70)[:-9]],
)
def test_an_entry_that_cannot_be_read_proves_nothing(signalled: OSError | None, hidden: OSError | str) -> None:
    kernel = FakeKernel()
    kernel.probes = {OTHER: signalled}
    kernel.files[f"/proc/{OTHER}/stat"] = hidden
    assert not is_gone(own(kernel)._replace(pid=OTHER, started="60"), own(kernel), kernel)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/proc/self/ns/pid", "pid:[2]"),
        ("/proc/self/ns/time", "time:[2]"),
        ("/proc/sys/kernel/random/boot_id", "b-2\n"),
    ],
)
def test_a_worker_of_another_namespace_or_boot_is_never_called_gone(path: str, value: str) -> None:
    kernel, there = FakeKernel(), FakeKernel()
    if path in there.links:
        there.links[path] = value
    else:
        there.files[path] = value
    assert not is_gone(own(there)._replace(pid=OTHER), own(kernel), kernel)
    assert is_gone(own(FakeKernel())._replace(pid=OTHER), own(kernel), kernel)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        # The host's /proc in a container, or one that was mounted before the namespace was made.
        ("/proc/self/status", f"Name:\tpython\nNSpid:\t9000\t{OWN}\n"),
        ("/proc/self/status", "Name:\tpython\nNSpid:\t9000\n"),
        ("/proc/self/status", "Name:\tpython\n"),
        ("/proc/self/status", PermissionError()),
        ("/proc/self/stat", PermissionError()),
        ("/proc/self/stat", "100 (python) S"),
        ("/proc/sys/kernel/random/boot_id", FileNotFoundError()),
        ("/proc/sys/kernel/random/boot_id", "\n"),
    ],
)
def test_a_process_that_cannot_tell_who_it_is_concludes_nothing(path: str, value: str | OSError) -> None:
    kernel = FakeKernel()
    kernel.files[path] = value
    assert own_identity(kernel) is None


def test_a_kernel_without_time_namespaces_will_do() -> None:
    kernel = FakeKernel()
    del kernel.links["/proc/self/ns/time"]
    assert own_identity(kernel) is not None
    del kernel.links["/proc/self/ns/pid"]
    assert own_identity(kernel) is None


def test_on_windows_nothing_is_ever_signalled() -> None:
    kernel = FakeKernel()
    kernel.platform = "win32"
    assert own_identity(kernel) is None


def test_on_macos_the_boot_session_counts_and_a_process_id_that_runs_lives() -> None:
    class MacKernel(FakeKernel):
        platform = "darwin"
        session: str | Exception = "F00-BA4"

        def read(self, path: str) -> str:
            raise AssertionError("there is no /proc")

        def boot_session(self) -> str:
            if isinstance(self.session, Exception):
                raise self.session
            return self.session

    kernel = MacKernel()
    mine = own(kernel)
    assert (mine.pid, mine.started) == (OWN, "")
    kernel.probes = {OTHER: None}
    assert not is_gone(mine._replace(pid=OTHER), mine, kernel)
    assert is_gone(mine._replace(pid=OTHER + 1), mine, kernel)
    for kernel.session in ("", OSError(), subprocess.TimeoutExpired("sysctl", 2)):
        assert own_identity(kernel) is None


def test_a_program_s_name_cannot_forge_its_stat() -> None:
    forged = stat(OTHER, 70, name="a) Z 1 2 (b c\n) Z")
    assert parse_stat(forged) == ProcessStat("S", 1, "70")


def test_a_dead_leader_with_living_threads_is_no_zombie() -> None:
    assert parse_stat(stat(OTHER, 70, state="Z")).dead
    assert not parse_stat(stat(OTHER, 70, state="Z", threads=2)).dead
    assert not any(parse_stat(stat(OTHER, 70, state=state)).dead for state in "RSDTtI")


@contextmanager
def child() -> Generator[tuple[subprocess.Popen[bytes], ProcessIdentity]]:
    mine = own_identity(Kernel())
    assert mine is not None
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        started = parse_stat(Path(f"/proc/{process.pid}/stat").read_text()).started
        yield process, mine._replace(pid=process.pid, started=started)
    finally:
        process.kill()
        process.communicate()


@linux
def test_a_real_process_lives_until_it_is_dead() -> None:
    mine = own_identity(Kernel())
    assert mine is not None
    assert mine.pid == os.getpid()
    with child() as (process, identity):
        assert not is_gone(identity, mine, Kernel())
        process.send_signal(signal.SIGSTOP)
        until_state(process.pid, psutil.STATUS_STOPPED)
        assert not is_gone(identity, mine, Kernel())
        process.kill()
        until_state(process.pid, psutil.STATUS_ZOMBIE)
        assert is_gone(identity, mine, Kernel())
        process.wait()
        assert is_gone(identity, mine, Kernel())


@linux
def test_a_start_time_stays_the_same() -> None:
    first, again = own_identity(Kernel()), own_identity(Kernel())
    assert first == again


def until_state(pid: int, state: str) -> None:
    process = psutil.Process(pid)
    for _ in range(5000):
        if process.status() == state:
            return
        time.sleep(0.001)
    raise AssertionError(f"process {pid} is not {state}")
