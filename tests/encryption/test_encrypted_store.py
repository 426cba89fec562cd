"""Payloads at rest: what is on the disk, who can open it, and what a missing or another key does."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores.records import NOW, after, claimed, new_task, settled

from raincheck.domain.caller import Caller, Credentials
from raincheck.domain.task import InputRequest, KeyKind, Outcome, Progress, TaskError
from raincheck.domain.transitions import AskInput, ProvideInput, ReportProgress, SaveCheckpoint, transition
from raincheck.encryption.cipher import KEY_BYTES, CannotDecrypt, PayloadCipher, key_id, keys_in_use, new_key, read_key
from raincheck.encryption.task_store import EncryptedTaskStore
from raincheck.errors import StoreUnusable
from raincheck.operations.context import TaskContext
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import TaskQuery
from raincheck.stores.sqlite.store import SqliteStore
from support.lab import Lab
from support.waiting import PATIENCE

OLD, NEW = b"o" * KEY_BYTES, b"n" * KEY_BYTES
WORD = "s3cr3t-payload"


def sealed(path: Path, *keys: bytes, accept_plain: bool = False) -> EncryptedTaskStore:
    return EncryptedTaskStore(SqliteStore(path, synchronous="normal"), PayloadCipher(keys), accept_plain=accept_plain)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


# Texts.


@given(text=st.text(st.characters(codec=None, exclude_categories=[])), place=st.text())
def test_what_is_sealed_opens_in_its_place_only(text: str, place: str) -> None:
    cipher = PayloadCipher([NEW])
    token = cipher.encrypt(text, place)
    assert token.isascii()
    assert cipher.decrypt(token, place) == text
    with pytest.raises(CannotDecrypt):
        cipher.decrypt(token, place + "x")


def test_a_changed_text_does_not_open() -> None:
    cipher = PayloadCipher([NEW])
    name, _, body = cipher.encrypt(WORD, "p").partition(":")
    raw = bytearray(base64.b64decode(body))
    for position in (0, 20, len(raw) - 1):
        changed = bytearray(raw)
        changed[position] ^= 1
        with pytest.raises(CannotDecrypt, match="was changed"):
            cipher.decrypt(f"{name}:{base64.b64encode(changed).decode()}", "p")
    for broken in (f"{name}:", f"{name}:!", f"{name}:AAAA", "", ":"):
        with pytest.raises(CannotDecrypt):
            cipher.decrypt(broken, "p")


def test_the_first_key_seals_and_all_open() -> None:
    old = PayloadCipher([OLD]).encrypt(WORD, "p")
    both = PayloadCipher([NEW, OLD])
    assert both.decrypt(old, "p") == WORD
    assert PayloadCipher([NEW]).decrypt(both.encrypt(WORD, "p"), "p") == WORD
    with pytest.raises(CannotDecrypt, match=key_id(OLD)):
        PayloadCipher([NEW]).decrypt(old, "p")
    assert both.encrypt(WORD, "p") != both.encrypt(WORD, "p")


def test_a_new_key_is_read_and_anything_else_is_refused_without_being_repeated() -> None:
    assert len(read_key(new_key())) == KEY_BYTES
    assert new_key() != new_key()
    for text in ("", "hunter2!", base64.b64encode(b"k" * 31).decode(), "é" * 44):
        with pytest.raises(ValueError, match="32 random bytes") as refused:
            read_key(text)
        assert not text or text not in str(refused.value)


# In the store.


async def test_no_payload_is_on_the_disk(path: Path) -> None:
    store = sealed(path, NEW)
    await store.open()
    question = InputRequest(key="q", method="elicitation/create", params={"message": WORD})
    caller = Caller(scope="ada", subject=WORD, claims={"email": WORD}, credentials=Credentials(token=WORD))
    task = new_task(arguments={WORD: [WORD]}, callback_url=f"https://example.com/{WORD}", fingerprint="f" * 64)
    task = replace(task, caller=caller)
    task = replace(task, idempotency_key="k")
    await store.insert(task)
    for event in (
        ReportProgress(fence=1, progress=Progress(fraction=0.5, message=WORD)),
        SaveCheckpoint(fence=1, checkpoint={"job": WORD}),
        AskInput(fence=1, requests=(question,)),
        ProvideInput(responses={"q": {"action": WORD}}),
    ):
        if task.worker_id is None:
            task = claimed(task)
            assert await store.replace(task)
        task = transition(task, event, NOW)
        assert await store.replace(task)
    assert await store.get(task.task_ref) == replace(task, fingerprint=PayloadCipher([NEW]).marks("f" * 64)[0])
    failure = Outcome(error=TaskError(code="upstream_error", message=WORD, details={"status": WORD}))
    done = settled(task, failure, at=after(1))
    assert await store.replace(done, records=(Record(kind="webhook", key="k", value={"body": WORD}, due_at=NOW),))
    other = claimed(new_task())
    await store.insert(replace(other, worker_id=None))
    await store.close()
    on_disk = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert WORD.encode() not in on_disk
    assert base64.b64encode(WORD.encode())[:12] not in on_disk
    # The digest of parameters that can be guessed would give them away.
    assert b"f" * 64 not in on_disk
    again = sealed(path, NEW)
    await again.open()
    found = await again.get(task.task_ref)
    assert found is not None
    assert (found.outcome, found.checkpoint, found.arguments) == (failure, {"job": WORD}, {WORD: [WORD]})
    assert [each.error_code for each in await again.list(TaskQuery()) if each.error_code] == ["upstream_error"]
    assert [each.value for each in await again.records(RecordQuery("webhook", due=NOW))] == [{"body": WORD}]
    await again.close()


async def test_a_listing_shows_progress_as_it_was(path: Path) -> None:
    store = sealed(path, NEW)
    await store.open()
    task = claimed(new_task())
    await store.insert(task)
    progress = Progress(fraction=0.5, message=WORD)
    assert await store.replace(transition(task, ReportProgress(fence=1, progress=progress), NOW))
    assert [each.progress for each in await store.list(TaskQuery())] == [progress]
    await store.close()


async def test_the_key_can_be_changed_while_tasks_are_kept(path: Path) -> None:
    first = sealed(path, OLD)
    await first.open()
    task = new_task(arguments={"a": WORD}, idempotency_key="k", fingerprint="f" * 64)
    shared = new_task(idempotency_key="e" * 64, key_kind=KeyKind.INFLIGHT, fingerprint="e" * 64)
    for each in (task, shared):
        await first.insert(each)
    await first.close()
    both = sealed(path, NEW, OLD)
    await both.open()
    found = await both.get(task.task_ref)
    assert found is not None
    assert found.arguments == {"a": WORD}
    # The same key with the same parameters is the same task still, with other parameters another one.
    again = await both.insert(new_task(idempotency_key="k", fingerprint="f" * 64))
    assert (again.created, again.task.fingerprint) == (False, "f" * 64)
    other = await both.insert(new_task(idempotency_key="k", fingerprint="d" * 64))
    assert other.task.fingerprint != "d" * 64
    await both.close()
    with pytest.raises(StoreUnusable, match=f"{key_id(OLD)}.* is not among 'keys'"):
        await sealed(path, NEW).open()
    plain = SqliteStore(path)
    await plain.open()
    assert set(await keys_in_use(plain)) == {key_id(OLD), key_id(NEW)}
    await plain.close()


async def test_what_was_stored_before_there_was_a_key_is_still_read_where_that_is_set(path: Path) -> None:
    plain = SqliteStore(path)
    await plain.open()
    task = new_task(arguments={"a": WORD}, idempotency_key="k", fingerprint="f" * 64)
    await plain.insert(task)
    await plain.close()
    store = sealed(path, NEW, accept_plain=True)
    await store.open()
    assert await store.get(task.task_ref) == task
    assert (await store.insert(new_task(idempotency_key="k", fingerprint="f" * 64))).task == task
    done = settled(claimed(task))
    assert await store.replace(claimed(task))
    assert await store.replace(done)
    assert await store.get(task.task_ref) == done
    await store.close()


async def test_a_task_that_cannot_be_opened_holds_up_no_other(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # A server that was not told of the new key yet, beside one that seals with it.
    behind = sealed(path, OLD)
    await behind.open()
    ahead = sealed(path, NEW, OLD)
    await ahead.open()
    theirs, ours = new_task(), new_task(created_at=after(1))
    await ahead.insert(theirs)
    await behind.insert(ours)
    with caplog.at_level(logging.ERROR):
        assert list(await behind.claimable(["report"], 5)) == [ours]
    assert "is sealed with the key" in caplog.text
    assert list(await behind.overdue(after(10_000), 5)) == [ours]
    assert list(await ahead.claimable(["report"], 5)) == [theirs, ours]
    with pytest.raises(CannotDecrypt):
        await behind.get(theirs.task_ref)
    await ahead.close()
    await behind.close()


async def test_a_payload_moved_to_another_task_does_not_open(path: Path) -> None:
    store = sealed(path, NEW)
    await store.open()
    one, two = new_task(arguments={"a": 1}), new_task(arguments={"a": 2})
    await store.insert(one)
    await store.insert(two)
    await store.close()
    import sqlite3

    connection = sqlite3.connect(path)
    connection.execute("UPDATE task SET arguments = (SELECT arguments FROM task WHERE task_ref = ?)", (two.task_ref,))
    connection.commit()
    connection.close()
    await store.open()
    with pytest.raises(CannotDecrypt, match="moved"):
        await store.get(one.task_ref)
    assert await store.get(two.task_ref) == two
    await store.close()


async def test_a_service_on_a_sealed_store_runs_asks_and_tells_as_on_any(path: Path) -> None:
    lab = Lab(path)

    @lab.operation("report", dedupe="inflight")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> dict[str, Any]:
        await context.progress(0.5, WORD)
        answer = await context.elicit("Which?", {"type": "object"})
        return {"quarter": arguments["quarter"], "answer": answer["content"], "word": WORD}

    async with lab.service(store=sealed(path, NEW)) as service, asyncio.timeout(PATIENCE):
        registry = service.registry
        ref = (await registry.submit("report", {"quarter": "Q3"}, scope="ada")).task.task_ref
        assert (await registry.submit("report", {"quarter": "Q3"}, scope="ada")).deduplicated
        asking = await registry.wait(ref, scope="ada", seconds=PATIENCE)
        (question,) = asking.outstanding
        assert question.params["message"] == "Which?"
        given = {question.key: {"action": "accept", "content": {"n": 1}}}
        await registry.provide_input(ref, given, scope="ada")
        task = await registry.wait(ref, scope="ada", seconds=PATIENCE)
        assert task.outcome == Outcome(value={"quarter": "Q3", "answer": {"n": 1}, "word": WORD})
        # Whoever forgot the key in the settings is stopped at the start.
        with pytest.raises(StoreUnusable, match=key_id(NEW)):
            async with lab.service():
                pass
    on_disk = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert WORD.encode() not in on_disk
