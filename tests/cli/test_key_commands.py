"""`raincheck store new-key` and `keys`; and every command with keys that are wrong, missing or changed."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from raincheck.domain.task import Task
from raincheck.encryption.cipher import KEY_RECORDS, PLAIN_RECORDS, key_id, new_key, read_key
from raincheck.encryption.plain_payloads import RECORD_KINDS
from raincheck.encryption.task_store import EncryptedTaskStore, PayloadCipher
from raincheck.ports.records import CLEAR_KINDS, Record
from raincheck.ports.task_store import TaskStore
from raincheck.stores.sqlite.store import SqliteStore
from raincheck.timing.clock import utc_now
from support.command_line import CommandLine

CONFIG = '[state]\nurl = "tasks.db"\n[encryption]\nkeys = [{}]\n'


def configured(*names: str) -> None:
    Path("raincheck.toml").write_text(CONFIG.format(", ".join(f'"${{{name}}}"' for name in names)))


def stored_with(key: str | None) -> str:
    """A task in the store, sealed with that key, if any."""

    async def store() -> str:
        plain: TaskStore = SqliteStore("tasks.db")
        sealed = plain if key is None else EncryptedTaskStore(plain, PayloadCipher([read_key(key)]))
        await sealed.open()
        now = utc_now()
        task = Task(
            task_ref="sealed-task",
            scope="ada",
            operation_type="report",
            arguments={"quarter": "Q3"},
            created_at=now,
            updated_at=now,
            deadline_at=now.replace(year=now.year + 1),
            ttl_seconds=60,
        )
        await sealed.insert(task)
        await sealed.close()
        return task.task_ref

    return asyncio.run(store())


def test_a_new_key_works_and_no_command_shows_it(raincheck: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    key = raincheck("store", "new-key").out.strip()
    monkeypatch.setenv("RAIN_KEY", key)
    configured("RAIN_KEY")
    ref = stored_with(key)
    said = [raincheck("tasks", "show", ref), raincheck("store", "check"), raincheck("store", "keys")]
    assert [each.code for each in said] == [0, 0, 0]
    assert "Q3" in said[0].out
    assert key_id(read_key(key)) in said[2].out
    assert all(key not in each.out + each.err for each in said)


def test_without_the_key_nothing_is_shown_or_changed(raincheck: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key()
    ref = stored_with(key)
    configured()
    for command in (("tasks", "show", ref), ("tasks", "cancel", ref), ("tasks", "list")):
        said = raincheck(*command)
        assert said.code == 1
        assert f"sealed with the key {key_id(read_key(key))}, which is not among 'keys' in [encryption]" in said.err
    monkeypatch.setenv("OTHER", new_key())
    configured("OTHER")
    assert raincheck("tasks", "show", ref).code == 1


def test_a_key_that_is_not_wanted_any_more_is_forgotten(
    raincheck: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = new_key(), new_key()
    stored_with(old)
    monkeypatch.setenv("NEW", new)
    monkeypatch.setenv("OLD", old)
    configured("NEW", "OLD")
    assert raincheck("tasks", "list").code == 0
    ids = {key_id(read_key(new)): True, key_id(read_key(old)): True}
    listed = raincheck("store", "keys", "--json").json["keys"]
    assert {each["id"]: each["configured"] for each in listed} == ids
    encrypting = raincheck("store", "keys", "--forget", key_id(read_key(new)))
    assert (encrypting.code, "is the key that seals now" in encrypting.err) == (1, True)
    unknown = raincheck("store", "keys", "--forget", "nothing")
    assert (unknown.code, "nothing is sealed with a key 'nothing'" in unknown.err) == (1, True)
    configured("NEW")
    assert raincheck("tasks", "list").code == 1
    assert raincheck("store", "keys", "--forget", key_id(read_key(old))).code == 0
    assert raincheck("tasks", "list", "--status", "completed").code == 0
    configured()
    assert raincheck("store", "keys").out.endswith("not in [encryption]\n")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ('"plain-text-key-in-the-file"', "each must be ${NAME}, an environment variable"),
        ('"${MISSING}"', "there is no environment variable MISSING"),
        ('"${SHORT}"', "SHORT: a key is 32 random bytes in base64"),
        ('"${GOOD}", "${SAME}"', "SAME: another variable holds the same key"),
        ("7", "'keys' in [encryption] of raincheck.toml"),
    ],
)
def test_keys_that_are_none_stop_the_start_with_one_line_that_repeats_nothing(
    raincheck: CommandLine, monkeypatch: pytest.MonkeyPatch, keys: str, told: str
) -> None:
    good = new_key()
    for name, value in {"SHORT": "hunter2", "GOOD": good, "SAME": good}.items():
        monkeypatch.setenv(name, value)
    Path("raincheck.toml").write_text(f'[state]\nurl = "tasks.db"\n[encryption]\nkeys = [{keys}]\n')
    said = raincheck("store", "migrate")
    assert said.code == 2
    assert told in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not any(secret in said.err for secret in ("plain-text-key", "hunter2", good))
    assert not Path("tasks.db").exists()


def test_two_servers_with_the_same_key_agree(raincheck: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key()
    monkeypatch.setenv("RAIN_KEY", key)
    configured("RAIN_KEY")
    ref = stored_with(key)
    assert raincheck("tasks", "cancel", ref).code == 0
    assert raincheck("tasks", "show", ref, "--json").json["arguments"] == {"quarter": "Q3"}


def test_a_store_from_before_the_keys_is_closed_to_plain_payloads_once_none_is_left(
    raincheck: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def recorded() -> bool:
        """Whether a record is there in plain; else it is put there."""
        store = SqliteStore("tasks.db")
        await store.open()
        await store.put_record(record := Record(kind="sketch", key="report", value={"learned": True}))
        found = await store.get_record("sketch", "report")
        await store.close()
        return found == record

    ref = stored_with(None)
    assert asyncio.run(recorded())
    monkeypatch.setenv("RAIN_KEY", new_key())
    configured("RAIN_KEY")
    refused = raincheck("tasks", "show", ref)
    assert (refused.code, "holds tasks from before there was a key" in refused.err) == (1, True)
    accepting = Path("raincheck.toml").read_text() + "accept_plain = true\n"
    Path("raincheck.toml").write_text(accepting)
    assert raincheck("tasks", "show", ref).code == 0
    early = raincheck("store", "keys", "--close")
    assert (early.code, "not closed: 1 tasks are not sealed" in early.out) == (1, True)
    assert raincheck("tasks", "cancel", ref).code == 0
    assert raincheck("tasks", "purge", "--settled-before", "0s", "--yes").code == 0
    assert "plain payloads are refused from the next start on" in raincheck("store", "keys", "--close").out
    assert not asyncio.run(recorded())
    # What the settings still say counts for nothing.
    ref = stored_with(None)
    shown = raincheck("tasks", "show", ref)
    assert (shown.code, "is not sealed" in shown.err) == (1, True)


def test_every_kind_of_record_is_among_those_that_are_sealed() -> None:
    source = Path(__file__).parents[2] / "src/raincheck"
    defined = re.compile(
        r'^_?(?:KIND|PENDING|DEAD|READINESS|OF_[A-Z]+|[A-Z]+_RECORDS)(?:: Final)? = "([a-z0-9-]+)"', re.MULTILINE
    )
    texts = [path.read_text() for path in source.rglob("*.py")]
    makers = [text for text in texts if "Record(" in text or "_RECORDS" in text or "StateKind(" in text]
    shared = re.compile(r'StateKind\(\s*kind="([a-z0-9-]+)"')
    assert {kind for text in makers for pattern in (defined, shared) for kind in pattern.findall(text)} == {
        *(*RECORD_KINDS, *CLEAR_KINDS),
        *(KEY_RECORDS, PLAIN_RECORDS),
    }
