"""The rights that the examples give are enough for a fleet, and no more than it needs."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
from deploy.files import FLEET, ROOT
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.exceptions import ConnectionError as RedisConnectionError

from support.history import FUNCTIONS, TOML
from support.servers.postgres import PostgresServer
from support.servers.redis import RedisServer
from support.servers.server import needed
from support.serving import Workplace, calling

STORES = ROOT / "src" / "raincheck" / "stores"


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path, TOML, FUNCTIONS)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """With the database and the two users of the example."""
    needed(PostgresServer.missing())
    server = PostgresServer()
    server.start()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE raincheck")
    with psycopg.connect(server.url.removesuffix("postgres") + "raincheck", autocommit=True) as connection:
        connection.execute((FLEET / "rights.sql").read_text(encoding="utf-8").encode())
    yield server
    server.close()


def as_user(server: PostgresServer, user: str) -> str:
    return f"postgresql://{user}@127.0.0.1:{server.port}/raincheck"


@asynccontextmanager
async def fleet(place: Workplace, environment: dict[str, str]) -> AsyncGenerator[None]:
    """A server that only accepts and a worker that runs a task of it."""
    accepts = environment | {"RAINCHECK_EXECUTION__MAX_CONCURRENCY": "0"}
    async with (
        place.http(env=accepts) as server,
        calling(server.port) as caller,
        place.command("worker", env=environment) as worker,
    ):
        done = await caller.run("retry", {"seconds": 0.2})
        assert done["result"] == "worked", worker.log
        cancelled = await caller.submit("retry", {"seconds": 60})
        told = await caller.call("cancel_background_task", {"task_ref": cancelled["task_ref"]})
        assert told["status"] == "cancelled"
        for log in (server.log, worker.log):
            assert "permission" not in log.lower(), log
            assert "refuses" not in log, log
        yield


@pytest.mark.parametrize("engine", ["local", "procrastinate"])
async def test_the_rights_in_postgresql_are_enough(place: Workplace, postgres: PostgresServer, engine: str) -> None:
    environment = {
        "RAINCHECK_STATE__PROVIDER": "postgres",
        "RAINCHECK_STATE__MIGRATE": "check",
        "RAINCHECK_EXECUTION__ENGINE": engine,
    }
    owner = environment | {"RAINCHECK_STATE__URL": as_user(postgres, "raincheck_owner")}
    user = environment | {"RAINCHECK_STATE__URL": as_user(postgres, "raincheck")}
    code, out, err = await place.raincheck("store", "migrate", env=owner)
    assert code == 0, out + err
    code, out, err = await place.raincheck("store", "check", env=user)
    assert code == 0, out + err
    async with fleet(place, user):
        pass


async def test_the_user_in_postgresql_cannot_make_a_schema(place: Workplace, postgres: PostgresServer) -> None:
    environment = {
        "RAINCHECK_STATE__PROVIDER": "postgres",
        "RAINCHECK_STATE__SCHEMA_NAME": "of_its_own",
        "RAINCHECK_STATE__URL": as_user(postgres, "raincheck"),
    }
    code, _, err = await place.raincheck("store", "migrate", env=environment)
    assert code == 1
    assert "needs the right CREATE on the database" in err


def test_the_roles_of_the_compose_file_have_their_passwords_and_are_no_superusers() -> None:
    needed(PostgresServer.missing())
    if shutil.which("psql") is None:
        pytest.skip("psql is not installed")
    server = PostgresServer()
    server.start()
    try:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE raincheck")
        parts = urlsplit(server.url)
        environment = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGUSER": parts.username or "postgres",
            "RIGHTS": str(FLEET / "rights.sql"),
            "RAINCHECK_OWNER_PASSWORD": "owner'; DROP",
            "RAINCHECK_PASSWORD": "worker",
        }
        script = ["sh", str(ROOT / "deploy" / "postgres-roles.sh")]
        done = subprocess.run(script, env=os.environ | environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        with psycopg.connect(server.url, autocommit=True) as connection:
            rows = connection.execute(
                "SELECT rolname, rolsuper, rolcreaterole, rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid "
                "WHERE rolname LIKE 'raincheck%' ORDER BY 1"
            ).fetchall()
            public = connection.execute(
                "SELECT has_database_privilege('pg_monitor', 'raincheck', 'CONNECT')"
            ).fetchall()
        assert rows == [("raincheck", False, False, True), ("raincheck_owner", False, False, True)]
        assert public == [(False,)]
    finally:
        server.close()


def redis_as(port: int, **login: Any) -> Any:
    return Redis(port=port, **login)


def test_the_redis_of_the_compose_file_knows_the_one_user_and_its_password_is_in_no_command_line(
    tmp_path: Path,
) -> None:
    needed(RedisServer.missing())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment = {"REDIS_PASSWORD": "hunter2", "USERS": str(FLEET / "users.acl"), "TMPDIR": str(tmp_path)}
    script = ["sh", str(ROOT / "deploy" / "redis-user.sh"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(script, env=os.environ | environment, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        with redis_as(port, username="raincheck", password="hunter2") as client:
            until = time.monotonic() + 20
            while True:
                try:
                    assert client.ping()
                    break
                except RedisConnectionError:
                    assert time.monotonic() < until
                    time.sleep(0.02)
            assert client.set("mcp_task:x", "1")
            with pytest.raises(NoPermissionError):
                client.set("others", "1")
        for wrong in ({}, {"username": "raincheck", "password": "change-me"}, {"password": "hunter2"}):
            with redis_as(port, **wrong) as client, pytest.raises(AuthenticationError):
                client.ping()
        assert "hunter2" not in " ".join(psutil.Process(process.pid).cmdline())
        assert b"hunter2" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    finally:
        process.terminate()
        process.wait(20)


def acl() -> Sequence[str]:
    (line,) = (FLEET / "users.acl").read_text(encoding="utf-8").splitlines()
    word, *rules = line.split()
    assert word == "user"
    return rules


@pytest.mark.parametrize("engine", ["local", "docket"])
async def test_the_rights_in_redis_are_enough(place: Workplace, engine: str) -> None:
    needed(RedisServer.missing())
    server = RedisServer("--appendfsync", "always")
    server.start()
    try:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", *acl())
            client.execute_command("ACL", "SETUSER", "default", "off")
            environment = {
                "RAINCHECK_STATE__PROVIDER": "redis",
                "RAINCHECK_STATE__URL": f"redis://raincheck:change-me@127.0.0.1:{server.port}/0",
                "RAINCHECK_EXECUTION__ENGINE": engine,
                "RAINCHECK_EXECUTION__QUEUE_NAME": "reports",
            }
            code, out, err = await place.raincheck("store", "check", env=environment)
            assert code == 0, out + err
            assert "warning" not in out
            async with fleet(place, environment):
                pass
            # The test's own connection was made before the default user was closed.
            denied = client.execute_command("ACL", "LOG")
            assert not denied, denied
    finally:
        server.close()


def test_the_policy_for_dynamodb_has_every_action_that_is_used_and_no_other() -> None:
    session: Any = importlib.import_module("botocore.session").get_session()
    names: list[str] = session.get_service_model("dynamodb").operation_names
    actions: dict[str, str] = {re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower(): name for name in names}
    written = {
        each for path in (STORES / "dynamodb").glob("*.py") for each in re.findall(r'"([a-z_]+)"', path.read_text())
    }
    used = {actions[name] for name in written if name in actions}
    assert {"GetItem", "CreateTable", "Query"} <= used
    # A transaction is allowed by the actions in it.
    used -= {"TransactWriteItems", "TransactGetItems"}
    used |= {"PutItem", "UpdateItem", "DeleteItem", "ConditionCheckItem"}
    policy = json.loads((FLEET / "iam-policy.json").read_text(encoding="utf-8"))
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert allowed == {f"dynamodb:{name}" for name in used}
