"""`raincheck store`: make, upgrade and check, on real stores; and the other commands on stores of the network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.command_line import CommandLine, Said
from support.servers.redis import RedisServer
from support.servers.server import Server, needed

PASSWORD = "hunter2-not-to-be-shown"


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server of the kind that the test is parametrized with, and the environment that names it."""
    found: Server = request.getfixturevalue(request.param)
    monkeypatch.setenv("RAINCHECK_STATE__PROVIDER", request.param)
    monkeypatch.setenv("RAINCHECK_STATE__URL", found.url)
    return found


def levels(said: Said) -> dict[str, str]:
    return {name: level for level, name in (line.split(":")[0].split() for line in said.out.splitlines()[1:])}


def test_a_file_is_made_and_found_to_be_usable(raincheck: CommandLine, tmp_path: Path) -> None:
    Path("raincheck.toml").write_text('[state]\nurl = "tasks.db"\n')
    said = raincheck("store", "migrate")
    assert (said.code, said.out) == (0, f"store: sqlite {tmp_path}/tasks.db\nthe file was made\n")
    assert raincheck("store", "migrate", "--json").json["did"] == ["the schema is up to date, nothing was changed"]
    said = raincheck("store", "check")
    assert said.code == 0
    assert levels(said) == dict.fromkeys(("reachable", "schema", "rights", "clock", "kept"), "ok")
    assert raincheck("tasks", "list").out == "No tasks.\n"


@pytest.mark.parametrize("command", ["migrate", "check"])
def test_a_file_that_is_no_store_of_ours_is_not_usable(raincheck: CommandLine, command: str) -> None:
    Path("raincheck.toml").write_text('[state]\nurl = "tasks.db"\n')
    Path("tasks.db").write_text("a letter to my aunt, long enough to be none of SQLite's headers" * 20)
    said = raincheck("store", command)
    assert said.code == 1
    assert "damaged or not an SQLite database" in said.out + said.err
    assert "aunt" in Path("tasks.db").read_text()


@pytest.mark.parametrize("command", ["migrate", "check"])
def test_tasks_in_memory_have_nothing_to_make_or_to_check(raincheck: CommandLine, command: str) -> None:
    Path("raincheck.toml").write_text('[state]\nprovider = "memory"\n')
    said = raincheck("store", command)
    assert said.code == 2
    assert "'provider' in [state] of raincheck.toml is \"memory\"" in said.err


@pytest.mark.parametrize("server", ["postgres", "redis"], indirect=True)
def test_a_store_on_the_network_is_made_once_and_found_to_be_usable(raincheck: CommandLine, server: Server) -> None:
    Path("raincheck.toml").write_text('[state]\nmigrate = "check"\n')
    assert raincheck("store", "migrate").code == 0
    assert "the schema is up to date, nothing was changed" in raincheck("store", "migrate").out
    said = raincheck("store", "check")
    assert said.code == 0, said
    # Of the test's own PostgreSQL it is known that a power cut may take something.
    kept = "warning" if "postgres" in os.environ["RAINCHECK_STATE__PROVIDER"] else "ok"
    assert levels(said) == dict.fromkeys(("reachable", "schema", "rights", "clock"), "ok") | {"kept": kept}
    assert raincheck("tasks", "list").out == "No tasks.\n"


@pytest.mark.parametrize("server", ["postgres"], indirect=True)
def test_a_schema_that_is_missing_is_told_and_made_by_migrate_alone(raincheck: CommandLine, server: Server) -> None:
    Path("raincheck.toml").write_text('[state]\nmigrate = "check"\nschema_name = "another"\n')
    said = raincheck("store", "check")
    assert said.code == 1
    assert levels(said) == {"schema": "failed"}
    assert 'run "raincheck store migrate"' in said.out
    assert raincheck("tasks", "list").code == 1
    assert "the schema was made or upgraded" in raincheck("store", "migrate").out
    assert raincheck("store", "check").code == 0


@pytest.mark.parametrize("server", ["postgres"], indirect=True)
def test_migrate_makes_the_queues_schema_too(raincheck: CommandLine, server: Server) -> None:
    Path("raincheck.toml").write_text('[execution]\nengine = "procrastinate"\n')
    said = raincheck("store", "migrate")
    assert said.code == 0, said
    assert "the queue of procrastinate has the schema that it needs" in said.out


@pytest.mark.parametrize(("provider", "scheme"), [("postgres", "postgresql"), ("redis", "redis")])
def test_a_server_that_is_not_there_is_one_line_without_the_password(
    raincheck: CommandLine, provider: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAINCHECK_STATE__PROVIDER", provider)
    monkeypatch.setenv("RAINCHECK_STATE__URL", f"{scheme}://ada:{PASSWORD}@127.0.0.1:9/0")
    monkeypatch.setenv("RAINCHECK_STATE__TIMEOUT_SECONDS", "1")
    Path("raincheck.toml").touch()
    for command in (
        ("store", "check"),
        ("store", "migrate"),
        ("check",),
        ("tasks", "list"),
        ("store", "check", "--json"),
    ):
        said = raincheck(*command)
        assert said.code == (2 if command == ("check",) else 1), command
        assert PASSWORD not in said.out + said.err
        assert f"{scheme}://127.0.0.1:9/0" in said.out + said.err


@pytest.mark.full
def test_a_server_that_would_evict_tasks_is_not_usable(raincheck: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    needed(RedisServer.missing())
    server = RedisServer("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    server.start()
    try:
        monkeypatch.setenv("RAINCHECK_STATE__PROVIDER", "redis")
        said = raincheck("store", "check", "--state-url", server.url)
    finally:
        server.close()
    assert said.code == 1
    assert "set maxmemory-policy to noeviction" in said.out


@pytest.mark.full
def test_a_server_that_keeps_nothing_is_a_warning(raincheck: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    needed(RedisServer.missing())
    server = RedisServer(appendonly=False)
    server.start()
    try:
        monkeypatch.setenv("RAINCHECK_STATE__PROVIDER", "redis")
        said = raincheck("store", "check", "--state-url", server.url)
    finally:
        server.close()
    assert said.code == 0
    assert levels(said)["kept"] == "warning"
    assert "set appendonly to yes" in said.out


@pytest.mark.parametrize("server", ["postgres"], indirect=True)
def test_check_shows_the_store_and_the_engine_without_password(
    raincheck: CommandLine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = server.url.replace("postgres@", f"postgres:{PASSWORD}@")
    monkeypatch.setenv("RAINCHECK_STATE__URL", address)
    monkeypatch.setenv("RAINCHECK_EXECUTION__ENGINE", "procrastinate")
    Path("raincheck.toml").touch()
    said = raincheck("check")
    assert said.code == 0, said
    shown = server.url.replace("postgres@", "")
    assert f"store: postgres {shown} (0 tasks kept)" in said.out
    assert f"engine: procrastinate raincheck at {shown}" in said.out
    whole = raincheck("check", "--json")
    assert whole.json["engine"] == {"name": "procrastinate", "place": f"procrastinate raincheck at {shown}"}
    assert whole.json["state"]["place"] == f"postgres {shown}"
    assert PASSWORD not in said.out + said.err + whole.out + whole.err
    assert PASSWORD in os.environ["RAINCHECK_STATE__URL"]
