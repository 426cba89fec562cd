"""From settings to parts: the store, the operations, and the policy each operation inherits."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raincheck.composition.adapters import make_store
from raincheck.composition.operations import default_policy, make_operations, policy_of
from raincheck.config.loading import load_settings
from raincheck.config.settings import Settings
from raincheck.errors import ConfigurationError, MissingDependency
from raincheck.operations.operation import Policy
from raincheck.stores.memory.store import MemoryStore
from support.command_line import own_imports

HTTP = '[operations.page]\nkind = "http"\nurl = "http://127.0.0.1:9/"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    with own_imports():
        yield tmp_path


def settings(text: str) -> Settings:
    Path("raincheck.toml").write_text(text)
    return load_settings(None, environ={"XDG_STATE_HOME": str(Path.cwd() / "state")})


def test_the_default_policy_is_that_of_an_operation_that_says_nothing() -> None:
    assert default_policy(settings("")) == Policy(timeout_seconds=120)
    assert policy_of(settings('[operations.a]\nkind = "python"\ntarget = "a:b"'), "a") == Policy(timeout_seconds=120)


def test_an_operation_inherits_what_it_does_not_say() -> None:
    execution = (
        "[execution]\ndefault_timeout_seconds = 1\nretry_attempts = 2\nmax_attempts = 5\ninline_wait_seconds = 0\n"
    )
    own = '[operations.a]\nkind = "python"\ntarget = "a:b"\nretry_attempts = 0\nmode = "task"\n'
    policy = policy_of(settings(f"{execution}[state]\nttl_seconds = 3\n{own}"), "a")
    assert (policy.timeout_seconds, policy.ttl_seconds, policy.max_attempts, policy.inline_wait_seconds) == (1, 3, 5, 0)
    assert (policy.retry_attempts, policy.mode) == (0, "task")


def test_a_lower_ceiling_lowers_the_inherited_deadline() -> None:
    own = '[operations.a]\nkind = "python"\ntarget = "a:b"\nmax_wait_ceiling_seconds = 60\n'
    assert policy_of(settings(own), "a").default_max_wait_seconds == 60
    assert default_policy(settings("[execution]\nmax_wait_ceiling_seconds = 60")).default_max_wait_seconds == 60


def test_every_kind_of_operation_is_made_with_its_policy() -> None:
    Path("reports.py").write_text('def build(quarter: str) -> str:\n    """Build it."""\n    return quarter\n')
    text = (
        '[operations.report]\nkind = "python"\ntarget = "reports:build"\ntimeout_seconds = 7\n'
        '[operations.say]\nkind = "command"\nargv = ["echo", "{word}"]\nparameters = {word = {type = "string"}}\n'
    )
    operations = make_operations(settings(text + HTTP))
    assert list(operations) == ["report", "say", "page"]
    assert operations["report"].policy.timeout_seconds == 7
    assert operations["report"].description == "Build it."
    assert operations["say"].executor.validate({"word": "x"}) == {"word": "x"}
    assert operations["page"].executor.parameters_schema["type"] == "object"


def test_what_a_module_prints_while_it_is_imported_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    Path("loud_reports.py").write_text("print('loud')\ndef build() -> str: return ''\n")
    make_operations(settings('[operations.a]\nkind = "python"\ntarget = "loud_reports:build"'))
    assert capfd.readouterr() == ("", "loud\n")


def test_a_wrong_declaration_names_its_table_and_file() -> None:
    wrong = settings('[operations."a.b"]\nkind = "command"\nargv = ["echo", "{x}"]\n')
    with pytest.raises(ConfigurationError, match=r'^\[operations\."a\.b"\] of raincheck\.toml: argv'):
        make_operations(wrong)


def test_a_missing_extra_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("raincheck.operations.http.executor")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingDependency, match=r'httpx2: .*pip install .*\[server\]"'):
        make_operations(settings(HTTP))


def test_two_configurations_do_not_share_a_default_store(folder: Path, tmp_path: Path) -> None:
    here = settings("")
    elsewhere = here.model_copy(update={"program_file": tmp_path / "elsewhere" / "raincheck.toml"})
    assert here.database != elsewhere.database
    assert here.database.parent == elsewhere.database.parent


async def test_the_default_store_is_a_file_in_a_folder_of_the_users_own(folder: Path) -> None:
    store = make_store(settings(""))
    await store.open()
    await store.close()
    state = folder / "state" / "raincheck"
    assert [file.name[:10] for file in state.iterdir() if file.suffix == ".db"] == ["raincheck-"]
    if sys.platform != "win32":
        assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_store_that_has_no_place_is_one_line(folder: Path) -> None:
    for text in ('url = "gone/tasks.db"', 'url = "."'):
        with pytest.raises(ConfigurationError, match=r"^'url' in \[state\] of raincheck.toml: "):
            make_store(settings(f"[state]\n{text}\n"))
    (folder / "state").write_text("a file, no folder")
    with pytest.raises(ConfigurationError, match="cannot keep tasks in"):
        make_store(settings(""))


def test_the_memory_store_is_made_for_its_provider() -> None:
    assert isinstance(make_store(settings('[state]\nprovider = "memory"')), MemoryStore)
