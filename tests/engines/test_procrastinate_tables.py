"""procrastinate's tables: a schema of their own, made and upgraded by whoever comes first; jobs beside their tasks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from engines.kinds import PROCRASTINATE, Place, query
from engines.submitting import settled, submit, until
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector
from procrastinate.schema import SchemaManager

from raincheck.domain.task import TaskStatus
from raincheck.engines.procrastinate.engine import job_statement
from raincheck.errors import ConfigurationError, StoreError
from raincheck.operations.context import TaskContext
from raincheck.stores.postgres.store import PostgresStore
from support.lab import Lab
from support.servers.postgres import PostgresServer
from support.servers.server import needed

JOBS = "SELECT queue_name, task_name, args FROM raincheck_queue.procrastinate_jobs"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server for this module alone: its tests make and drop what others count on."""
    needed(PostgresServer.missing())
    server = PostgresServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def place(server: PostgresServer) -> Place:
    query(server, "DROP SCHEMA IF EXISTS raincheck_queue CASCADE")
    query(server, "DROP SCHEMA IF EXISTS tasks CASCADE")
    query(server, "DROP SCHEMA public CASCADE")
    query(server, "CREATE SCHEMA public")
    return Place(kind=PROCRASTINATE, server=server, name="q")


@pytest.fixture
def runs(lab: Lab) -> Counter[str]:
    counted: Counter[str] = Counter()

    @lab.operation("work")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        counted[context.task_ref] += 1

    return counted


def store_of(place: Place) -> PostgresStore:
    return PostgresStore(place.server.url, schema="tasks", companion=job_statement(place.name))


async def test_many_processes_make_the_tables_at_once(
    lab: Lab, place: Place, runs: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    services = [lab.service(engine=place.engine(), max_concurrency=number % 2) for number in range(8)]
    entered = await asyncio.gather(*(service.__aenter__() for service in services))
    try:
        await settled(entered[1], await submit(entered[0], "work", 5))
    finally:
        await asyncio.gather(*(service.__aexit__(None, None, None) for service in services))
    assert [record.getMessage() for record in caplog.records if "is away" in record.getMessage()] == []
    recorded = "SELECT count(*), count(DISTINCT applied_at) FROM raincheck_queue.raincheck_migrations"
    migrations = query(place.server, recorded)
    assert migrations[0][0] > 30
    assert migrations[0][1] == 1


async def test_a_procrastinate_of_somebody_else_is_left_alone(lab: Lab, place: Place, runs: Counter[str]) -> None:
    theirs = App(connector=SyncPsycopgConnector(conninfo=place.server.url))
    with theirs.open():
        theirs.schema_manager.apply_schema()
        theirs.configure_task("theirs", queue=place.name).defer(number=1)
    before = query(place.server, "SELECT * FROM public.procrastinate_jobs")
    async with (
        lab.service(store=store_of(place), engine=place.engine(jobs_come_with_tasks=True), max_concurrency=0) as server,
        lab.service(store=store_of(place), engine=place.engine(jobs_come_with_tasks=True)) as worker,
    ):
        await settled(worker, await submit(server, "work", 20))
        await until(lambda: not place.left())
    assert len(runs) == 20
    assert query(place.server, "SELECT * FROM public.procrastinate_jobs") == before
    assert len(query(place.server, "SELECT * FROM public.procrastinate_events")) == 1


async def test_a_task_and_its_job_come_into_being_together(lab: Lab, place: Place, runs: Counter[str]) -> None:
    engine = place.engine(jobs_come_with_tasks=True)
    async with lab.service(store=store_of(place), engine=engine, max_concurrency=0) as server:
        ref = (await submit(server, "work"))[0]
        # Nothing is handed in afterwards: what is there now is all.
        assert query(place.server, JOBS) == [(place.name, "raincheck_task", {"task_ref": ref})]
        same = [
            await server.registry.submit("work", {"n": 1}, scope="a", idempotency_key="k", max_wait_seconds=60)
            for _ in range(3)
        ]
        assert [each.deduplicated for each in same] == [False, True, True]
        assert len(query(place.server, JOBS)) == 2
    async with lab.service(store=store_of(place), engine=engine) as worker:
        done = await settled(worker, [ref, same[0].task.task_ref])
        assert {task.status for task in done} == {TaskStatus.COMPLETED}
        await until(lambda: not place.left())
    assert max(runs.values()) == 1


async def test_there_is_no_task_where_there_can_be_no_job(lab: Lab, place: Place, runs: Counter[str]) -> None:
    engine = place.engine(jobs_come_with_tasks=True)
    async with lab.service(store=store_of(place), engine=engine, max_concurrency=0) as server:
        query(place.server, "ALTER TABLE raincheck_queue.procrastinate_jobs RENAME TO elsewhere")
        with pytest.raises(StoreError):
            await submit(server, "work")
        assert await server.registry.list(scope="a") == []
        query(place.server, "ALTER TABLE raincheck_queue.elsewhere RENAME TO procrastinate_jobs")
        await submit(server, "work")
        assert len(query(place.server, JOBS)) == 1


async def test_many_tasks_through_a_store_and_a_queue_in_one_database(
    lab: Lab, place: Place, runs: Counter[str]
) -> None:
    engine = place.engine(jobs_come_with_tasks=True)
    async with (
        lab.service(store=store_of(place), engine=engine, max_concurrency=0) as server,
        lab.service(store=store_of(place), engine=engine, max_concurrency=5) as one,
        lab.service(store=store_of(place), engine=engine, max_concurrency=5),
    ):
        submissions = await asyncio.gather(*(server.registry.submit("work", {}, scope="a") for _ in range(300)))
        done = await settled(one, [each.task.task_ref for each in submissions])
        assert {task.status for task in done} == {TaskStatus.COMPLETED}
        await until(lambda: not place.left())
    assert len(runs) == 300
    assert max(runs.values()) == 1


async def test_tables_that_were_dropped_are_made_again(lab: Lab, place: Place, runs: Counter[str]) -> None:
    async with (
        lab.service(engine=place.engine(0.5), max_concurrency=0) as server,
        lab.service(engine=place.engine(0.5)) as worker,
    ):
        await settled(worker, await submit(server, "work"))
        query(place.server, "DROP SCHEMA raincheck_queue CASCADE")
        await settled(worker, await submit(server, "work", 5))
        there = "SELECT to_regclass('raincheck_queue.procrastinate_jobs') IS NOT NULL"
        await until(lambda: query(place.server, there) == [(True,)], 15)
        await settled(worker, await submit(server, "work", 5))


async def test_what_an_older_procrastinate_made_is_upgraded(lab: Lab, place: Place, runs: Counter[str]) -> None:
    migrations = sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"))
    older = [path for path in migrations if path.name < "03.03"]
    assert 0 < len(older) < len(migrations)
    with psycopg.connect(place.server.url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA raincheck_queue")
        connection.execute("SET search_path = raincheck_queue")
        connection.execute("CREATE TABLE raincheck_migrations (name text PRIMARY KEY, applied_at timestamptz)")
        for path in older:
            connection.execute(path.read_bytes())
            connection.execute("INSERT INTO raincheck_migrations VALUES (%s, now())", [path.name])
    async with lab.service(engine=place.engine()) as worker:
        await settled(worker, await submit(worker, "work", 3))
    settings = query(
        place.server,
        "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'raincheck_queue'::regnamespace",
    )
    assert "procrastinate_retry_job_v2" in {name for name, _ in settings}
    assert all(config == ["search_path=raincheck_queue, pg_temp"] for _, config in settings)


async def test_the_tables_of_a_newer_procrastinate_stop_the_start_with_one_line(lab: Lab, place: Place) -> None:
    async with lab.service(engine=place.engine(), max_concurrency=0):
        pass
    query(place.server, "INSERT INTO raincheck_queue.raincheck_migrations VALUES ('99.00.00_01_pre_future.sql')")
    with pytest.raises(ConfigurationError, match=r"newer version.*pip install") as caught:
        async with lab.service(engine=place.engine(), max_concurrency=0):
            pass
    assert "\n" not in caught.value.message


async def test_a_missing_right_stops_the_start_with_one_line(lab: Lab, place: Place, runs: Counter[str]) -> None:
    query(place.server, "DO $$ BEGIN CREATE ROLE guest LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    url = place.server.url.replace("postgres@", "guest@")

    class AsGuest:
        def __init__(self) -> None:
            self.url = url

    engine = PROCRASTINATE.make(AsGuest(), place.name, 5.0)
    with pytest.raises(ConfigurationError, match=r"permission denied.*must own the schema raincheck_queue") as caught:
        async with lab.service(engine=engine):
            pass
    assert "\n" not in caught.value.message
    query(place.server, "CREATE SCHEMA raincheck_queue AUTHORIZATION guest")
    async with lab.service(engine=engine) as worker:
        await settled(worker, await submit(worker, "work", 3))


async def test_the_tables_are_those_that_procrastinate_makes(lab: Lab, place: Place) -> None:
    async with lab.service(engine=place.engine(), max_concurrency=0):
        pass
    app = App(connector=PsycopgConnector(conninfo=place.server.url))
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
    columns = (
        "SELECT table_name, column_name, column_default, is_nullable FROM information_schema.columns"
        " WHERE table_schema = %s AND table_name LIKE 'procrastinate%%' ORDER BY 1, 2"
    )
    ours = query(place.server, columns, "raincheck_queue")
    theirs = query(place.server, columns, "public")
    assert [(row[0], row[1], row[3]) for row in ours] == [(row[0], row[1], row[3]) for row in theirs]
    assert len(ours) > 15
    with psycopg.connect(place.server.url) as connection:
        # Found by their full names whatever the search path says.
        connection.execute("SET search_path = pg_catalog")
        statement, parameters = job_statement("q")(_task())
        connection.execute(statement.encode(), parameters)
        assert connection.execute(JOBS).fetchall() == [("q", "raincheck_task", {"task_ref": "ref"})]


def _task() -> Any:
    class Named:
        task_ref = "ref"
        priority = 0

    return Named()
