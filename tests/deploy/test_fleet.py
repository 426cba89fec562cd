"""The fleet of the example as real processes on PostgreSQL, started by what the files of deploy/ start them with."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from deploy.files import FLEET, dockerfile, exec_form, kubernetes_containers

from support.servers.postgres import PostgresServer
from support.servers.server import free_port, needed
from support.serving import HttpServer, Process, Workplace

TOKEN = "a-token-of-the-agent-0123456789"
READY = re.compile(r"^raincheck: worker (\S+) runs 1 operation of postgres \S+ with the engine local$", re.MULTILINE)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    needed(PostgresServer.missing())
    server = PostgresServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def place(tmp_path: Path, postgres: PostgresServer) -> Workplace:
    """The example's folder."""
    workplace = Workplace(tmp_path, "", "")
    shutil.copytree(FLEET, tmp_path, dirs_exist_ok=True)
    return workplace


def arguments_of(name: str) -> list[str]:
    """What the container of that name in Kubernetes runs."""
    (container,) = [each for each, _ in kubernetes_containers() if each.name == name]
    return container.arguments


class Fleet:
    """A server that only accepts, and workers."""

    def __init__(self, place: Workplace, environment: dict[str, str]) -> None:
        self.place = place
        self.environment = environment
        self.server: HttpServer
        self.workers: dict[int, Process] = {}

    def order(self) -> subprocess.Popen[str]:
        """The example's client, started."""
        return subprocess.Popen(
            [sys.executable, "-u", "order.py"],
            cwd=self.place.folder,
            env={**os.environ, "REPORTS_URL": self.server.url, "AGENT_TOKEN": TOKEN},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@asynccontextmanager
async def fleet(place: Workplace, postgres: PostgresServer, **more: str) -> AsyncGenerator[Fleet]:
    environment = {"RAINCHECK_STATE__URL": postgres.url, "RAINCHECK_EXECUTION__LEASE_SECONDS": "1", **more}
    running = Fleet(place, environment)
    async with AsyncExitStack() as stack:
        _, *flags = arguments_of("raincheck-server")
        accepts = {"RAINCHECK_EXECUTION__MAX_CONCURRENCY": "0", "AGENT_TOKEN": TOKEN}
        # The last of two flags counts: on loopback, and where nobody else listens.
        flags += ["--host", "127.0.0.1", "--port", "0"]
        running.server = await stack.enter_async_context(place.http(*flags, env=environment | accepts))
        for _ in range(2):
            port = free_port()
            own = ["--health-host", "127.0.0.1", "--health-port", str(port)]
            command = [*arguments_of("raincheck-worker"), *own]
            running.workers[port] = await stack.enter_async_context(place.command(*command, env=environment))
        for worker in running.workers.values():
            await eventually(lambda worker=worker: READY.search(worker.log), "a worker that is ready", 20)
        yield running


async def eventually(look: Callable[[], Any], what: str, seconds: float = 10) -> Any:
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)
    return found


def asked(port: int, path: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.status


async def test_the_fleet_answers_its_probes_and_builds_the_reports(place: Workplace, postgres: PostgresServer) -> None:
    async with fleet(place, postgres) as running:
        probes = {
            name: {
                request["path"]
                for key, probe in spec.items()
                if key.endswith("Probe") and (request := probe["httpGet"])
            }
            for (name, *_), spec in kubernetes_containers()
        }
        assert probes["raincheck-server"] == probes["raincheck-worker"] == {"/healthz", "/readyz"}
        for port in (running.server.port, *running.workers):
            for path in probes["raincheck-worker"]:
                assert await asyncio.to_thread(asked, port, path) == 200
        orders = [running.order() for _ in range(2)]
        said = [await asyncio.to_thread(order.communicate, timeout=60) for order in orders]
        pids = {worker.pid for worker in running.workers.values()}
        for out, err in said:
            lines = out.splitlines()
            assert [line.split(":")[0] for line in lines] == ["rain", "snow"], err
            assert {int(line.rpartition("-")[2]) for line in lines} <= pids


async def test_a_report_survives_the_death_of_its_worker(place: Workplace, postgres: PostgresServer) -> None:
    async with fleet(place, postgres) as running:
        order = running.order()
        listing = ["tasks", "list", "--status", "processing", "--json"]
        pids = {str(worker.pid): worker for worker in running.workers.values()}
        victim: Process | None = None
        until = time.monotonic() + 20
        while victim is None:
            assert time.monotonic() < until
            _, out, _ = await place.raincheck(*listing, env=running.environment)
            victim = next((worker for pid, worker in pids.items() if f"-{pid}-" in out), None)
        await victim.kill()
        out, err = await asyncio.to_thread(order.communicate, timeout=60)
        assert len(out.splitlines()) == 2, err
        assert f"-{victim.pid}\n" not in out.splitlines(keepends=True)[0]


async def test_the_images_health_check_tells_a_live_process_from_a_dead_one(
    place: Workplace, postgres: PostgresServer
) -> None:
    _, *check = exec_form(dict(dockerfile())["HEALTHCHECK"])
    async with fleet(place, postgres) as running:

        async def healthy(port: int) -> bool:
            environment = {**os.environ, "HEALTH_PORT": str(port)}
            process = await asyncio.create_subprocess_exec(
                sys.executable, *check, env=environment, stderr=asyncio.subprocess.DEVNULL
            )
            return await asyncio.wait_for(process.wait(), 20) == 0

        assert await healthy(running.server.port)
        port, worker = next(iter(running.workers.items()))
        assert await healthy(port)
        worker.signal(signal.SIGSTOP)
        assert not await healthy(port)
        worker.signal(signal.SIGCONT)
        await worker.kill()
        assert not await healthy(port)


async def test_pods_that_may_not_change_a_schema_start_after_the_job_has_made_it(
    place: Workplace, postgres: PostgresServer
) -> None:
    environment = {
        "RAINCHECK_STATE__URL": postgres.url,
        "RAINCHECK_STATE__SCHEMA_NAME": "migrated",
        "RAINCHECK_STATE__MIGRATE": "check",
    }
    code, _, err = await place.raincheck("worker", env=environment)
    assert code == 1
    assert 'run "raincheck store migrate"' in err
    code, out, err = await place.raincheck(*arguments_of("raincheck-migrate"), env=environment)
    assert code == 0, err
    assert "the schema was made or upgraded" in out
    async with fleet(place, postgres, **environment) as running:
        assert await asyncio.to_thread(asked, running.server.port, "/readyz") == 200


async def test_a_process_is_not_ready_while_its_store_is_away(place: Workplace) -> None:
    needed(PostgresServer.missing())
    own = PostgresServer()
    own.start()
    try:
        async with fleet(place, own) as running:
            ports = (running.server.port, *running.workers)
            own.kill()
            for port in ports:
                status, reasons = await eventually_status(port, 503)
                assert status == 503
                assert "the task store" in reasons
                assert "postgres" not in reasons
                assert await asyncio.to_thread(asked, port, "/healthz") == 200
            own.start()
            for port in ports:
                assert (await eventually_status(port, 200))[0] == 200
            own.freeze()
            asked_at = time.monotonic()
            found = await asyncio.gather(*(eventually_status(port, 503) for port in ports))
            assert time.monotonic() - asked_at < 6
            assert all("did not answer within 2 s" in reasons for _, reasons in found), found
            own.thaw()
            for port in ports:
                assert (await eventually_status(port, 200))[0] == 200
    finally:
        own.close()


async def eventually_status(port: int, wanted: int) -> tuple[int, str]:
    def look() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    until = time.monotonic() + 20
    while (found := await asyncio.to_thread(look))[0] != wanted:
        assert time.monotonic() < until, found
        await asyncio.sleep(0.05)
    return found
