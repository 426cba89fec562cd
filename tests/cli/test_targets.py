"""What a command is about: the file that is served, a Raincheck object, or the one store of the folder's programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from raincheck.config.program import Program, claim_store
from raincheck.stores.sqlite.store import SqliteStore
from support.command_line import CommandLine, Tasks, completed

OFFICE = '''
print("what a module prints")
from mcp.server.mcpserver import MCPServer
from raincheck import Raincheck
from raincheck.stores.memory.store import MemoryStore
from raincheck.stores.sqlite.store import SqliteStore

rc = Raincheck(tools="slow_*")
mcp = MCPServer("office", extensions=[rc])
given = Raincheck(store=SqliteStore("given.db"))
MCPServer("given", extensions=[given])
forgetful = Raincheck(store=MemoryStore())


@rc.operation(timeout_seconds=7)
async def report(quarter: str) -> str:
    """Build a report."""
    return quarter


@mcp.tool()
def slow_count() -> int:
    """Count."""
    return 3
'''


@pytest.fixture
def office(raincheck: CommandLine) -> CommandLine:
    Path("target_office.py").write_text(OFFICE)
    return raincheck


def _stored(file: Path, program: Program | None = None) -> Tasks:
    """A file of tasks with one in it, as a server of that program makes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tasks = Tasks(file)
    tasks.add(*completed("done"))

    async def claim(store: SqliteStore) -> None:
        if program is not None:
            await claim_store(store, program)

    tasks.at_store(claim)
    return tasks


def test_every_command_knows_a_raincheck_object(office: CommandLine) -> None:
    report = office("check", "target_office:rc", "--json").json
    assert [each["operation_type"] for each in report["operations"]] == ["report", "slow_count"]
    assert report["operations"][0]["timeout_seconds"] == 7
    assert report["server"]["name"] == "office"
    assert report["file"] == str(Path("target_office.py").resolve())
    assert Path(report["state"]["file"]).name.startswith("target_office-")
    assert "office" in office("check", "target_office:rc").out
    (listed,) = [_stored(Path(report["state"]["file"])).path]
    for args in (
        ("tasks", "list", "--config", "target_office:rc", "--json"),
        ("tasks", "target_office:rc", "list", "--json"),
    ):
        assert [each["status"] for each in office(*args).json] == ["completed"], args
    assert "completed" in office("tasks", "target_office:rc").out
    assert office("advise", "target_office:rc", "--json").json["without_history"] == ["report", "slow_count"]
    assert office("store", "target_office:rc", "check", "--json").json["store"] == f"sqlite {listed}"
    assert office("store", "target_office:rc").code == 0
    assert office("tasks", "webhooks", "target_office:rc", "list", "--json").json == []
    assert office("tasks", "target_office:rc", "webhooks", "--help").code == 0


def test_a_store_that_the_program_made_itself_is_looked_into(office: CommandLine) -> None:
    _stored(Path("given.db"))
    assert len(office("tasks", "target_office:given", "list", "--json").json) == 1
    assert office("store", "target_office:given", "check").code == 0
    assert office("check", "target_office:given", "--json").json["state"] == {
        "provider": None,
        "place": "SqliteStore",
        "file": None,
        "tasks": 1,
    }


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("tasks", "target_office:forgetful", "list"), "inside the server only"),
        (("store", "target_office:forgetful", "check"), "nothing to make or to check"),
        (("check", "target_office:mcp"), "target_office:mcp is of type MCPServer; allowed: a Raincheck object"),
        (("advise", "target_gone:rc"), "there is no module 'target_gone'"),
        (("tasks", "target_office:rc", "list", "--state-url", "x"), "a Raincheck object names its own store"),
        (("serve", "target_office:rc"), "target_office:rc is no configuration: a server in Python is started itself"),
    ],
)
def test_what_cannot_be_looked_into_is_one_line(office: CommandLine, args: tuple[str, ...], told: str) -> None:
    said = office(*args)
    assert (said.code, said.out) == (2, "")
    (line,) = [line for line in said.err.splitlines() if line.startswith("raincheck: ")]
    assert told in line


def test_the_one_store_of_the_programs_in_this_folder_is_found(raincheck: CommandLine, tmp_path: Path) -> None:
    state = tmp_path / "state" / "raincheck"
    below = Program(file=tmp_path.resolve() / "src" / "office.py", server_name="報告")
    _stored(below.store_file(state), below)
    elsewhere = Program(file=Path("/srv/elsewhere/office.py"))
    _stored(elsewhere.store_file(state), elsewhere)
    (state / "broken.db").write_bytes(b"no database")
    said = raincheck("tasks", "list", "--json")
    assert len(said.json) == 1
    assert said.err == f"raincheck: {below.store_file(state)} of office.py (報告)\n"
    assert raincheck("tasks").code == raincheck("store", "check").code == raincheck("advise").code == 0

    _stored(Path("named.db"))
    for args in (("tasks", "list"), ("tasks", "webhooks", "list"), ("advise",), ("store", "check")):
        said = raincheck(*args)
        assert said.code == 2
        (line,) = said.err.splitlines()
        assert "2 task stores belong to this folder: name one by --state-url FILE" in line
        assert str(tmp_path / "named.db") in line
        assert f"{below.store_file(state)} of office.py" in line
    assert len(raincheck("tasks", "list", "--state-url", "named.db", "--json").json) == 1
    assert len(raincheck("tasks", "--state-url", "named.db", "--json").json) == 1


def test_without_a_configuration_nothing_is_served_or_checked_and_the_near_miss_is_named(
    raincheck: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*endings: str) -> None:
        for command in ("serve", "check"):
            said = raincheck(command)
            assert (said.code, said.out) == (2, "")
            (line,) = said.err.splitlines()
            assert line.startswith(f"raincheck: there is no raincheck.toml in {Path.cwd()}: name the file, or make one")
            assert line.endswith(endings), line

    told("(raincheck init)")
    (tmp_path / "raincheck.toml").touch()
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    told(f"; there is one in {tmp_path}")
    Path("reports.toml").write_text("[operations.a]\n")
    Path("pyproject.toml").touch()
    told("; there is reports.toml here")
    Path("rainckeck.toml").touch()
    told("; there is rainckeck.toml and reports.toml here")
    assert not (tmp_path / "state").exists()


def test_check_and_serve_name_the_file_that_they_read(
    raincheck: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("a" * 70)
    folder.mkdir()
    (folder / "raincheck.toml").touch()
    monkeypatch.chdir(folder)
    assert raincheck("check", "--json").json["file"] == str(folder / "raincheck.toml")
    assert raincheck("check").out.startswith(f"{folder / 'raincheck.toml'}: ")


def test_check_refuses_the_file_of_another_program_as_serve_does(raincheck: CommandLine, tmp_path: Path) -> None:
    Path("raincheck.toml").touch()
    file = Path(raincheck("check", "--json").json["state"]["file"])

    async def take(store: SqliteStore) -> None:
        record = await store.get_record("program", "mark")
        assert record is not None
        await store.remove_record(record)
        await claim_store(store, Program(file=Path("/srv/other.py")))

    Tasks(file).at_store(take)
    said = raincheck("check")
    assert said.code == 2
    assert "holds the tasks of another one (/srv/other.py)" in said.err
