"""What `[results]` may say, where each choice leads, and the page about it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from raincheck.blob_stores.files import FileBlobs
from raincheck.blob_stores.records import RecordBlobStore
from raincheck.composition.adapters import make_blobs
from raincheck.composition.operations import policy_of
from raincheck.config.loading import load_settings
from raincheck.config.settings import Settings
from raincheck.domain.result_body import public_preview
from raincheck.domain.task import Outcome, Task, TaskStatus
from raincheck.domain.task_json import status_of
from raincheck.errors import ConfigurationError, TaskNotFound
from raincheck.stores.memory.store import MemoryStore
from raincheck.tasks.results import Results
from raincheck.timing.clock import utc_now

PAGE = Path(__file__).parents[2] / "docs" / "results.md"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[results]\nmax_inline_bytes = 4095", "'max_inline_bytes'.*from 4096 up to 1048576"),
        ("[results]\nmax_inline_bytes = 1e9", "'max_inline_bytes'"),
        ('[results]\nmax_inline_bytes = "64k"', "'max_inline_bytes'"),
        ('[results]\nblobs = "disk"', '\'blobs\'.*"auto".*"task"'),
        ('[results]\nblobs = "s3"', "'bucket' must be set"),
        ('[results]\nblobs = "s3"\nbucket = "No_Bucket"', "'bucket'.*3 to 63"),
        ('[results]\nblobs = "s3"\nbucket = "abc"\nendpoint = "minio:9000"', "'endpoint'.*an address"),
        ('[results]\nblobs = "s3"\nbucket = "abc"\nendpoint = "https://a:secret@b"', "'endpoint'.*without user"),
        ('[results]\nblobs = "s3"\nbucket = "abc"\nprefix = "a b"', "'prefix'"),
        ('[results]\nblobs = "s3"\nbucket = "abc"\nregion = "EU"', "'region'"),
        ('[results]\nbucket = "abc"', "'bucket' is for blobs = \"s3\" only"),
        ('[results]\nregion = "eu-central-1"', "'region' is for blobs = \"s3\" only"),
        ('[results]\nfolder = "x"', "'folder' is for blobs = \"files\" only"),
        ('[results]\nblobs = "files"\nfolder = "a\\u0000b"', "'folder' must be a folder's path"),
        ('[results]\nblobs = "redis"', "'blobs' in .results. can be \"redis\" only where 'provider'"),
        ('[results]\nblobs = "postgres"', "'blobs' in .results. can be \"postgres\" only where 'provider'"),
        ('[state]\nprovider = "memory"\n[results]\nblobs = "files"', "'folder' in .results. must be set"),
        ("[results]\ninline = 1", 'unknown key "inline"'),
        ('[operations.a]\nkind = "command"\nargv = ["a"]\nmax_inline_bytes = 1', "'max_inline_bytes' in .operations.a"),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "raincheck.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(tmp_path / "raincheck.toml", environ={})
    message = caught.value.message
    assert re.search(told, message), message
    assert "\n" not in message
    assert "secret" not in message


def settings_of(**tables: Any) -> Settings:
    return Settings.model_validate(tables)


def test_each_store_has_its_place_without_set_up(tmp_path: Path) -> None:
    store = MemoryStore()
    on_sqlite = make_blobs(settings_of(state={"url": str(tmp_path / "t.db")}), store)
    assert isinstance(on_sqlite, FileBlobs)
    assert not list(tmp_path.iterdir())
    assert isinstance(make_blobs(settings_of(state={"provider": "memory"}), store), RecordBlobStore)
    assert isinstance(make_blobs(settings_of(state={"provider": "dynamodb"}), store), RecordBlobStore)
    assert isinstance(make_blobs(settings_of(), store, given=True), RecordBlobStore)
    postgres = settings_of(state={"provider": "postgres", "url": "postgresql://h/d"})
    assert type(make_blobs(postgres, store)).__name__ == "PostgresBlobs"
    redis = settings_of(state={"provider": "redis", "url": "redis://h/0"})
    assert type(make_blobs(redis, store)).__name__ == "RedisBlobs"
    s3 = settings_of(results={"blobs": "s3", "bucket": "abc"})
    assert type(make_blobs(s3, store)).__name__ == "S3Blobs"
    assert make_blobs(settings_of(results={"blobs": "task"}), store) is None
    with pytest.raises(ConfigurationError, match="for a store that is given"):
        make_blobs(redis.model_copy(update={"results": settings_of(**_redis()).results}), store, given=True)


def _redis() -> dict[str, Any]:
    return {"state": {"provider": "redis", "url": "redis://h/0"}, "results": {"blobs": "redis"}}


def test_blobs_are_sealed_where_payloads_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from raincheck.encryption.cipher import new_key

    monkeypatch.setenv("A_KEY", new_key())
    settings = settings_of(state={"url": str(tmp_path / "t.db")}, encryption={"keys": ["${A_KEY}"]})
    assert type(make_blobs(settings, MemoryStore())).__name__ == "EncryptedBlobStore"


def test_an_operation_has_its_own_limit_or_that_of_the_section() -> None:
    command = {"kind": "command", "argv": ["a"]}
    settings = settings_of(
        results={"max_inline_bytes": 5000}, operations={"a": command, "b": {**command, "max_inline_bytes": 9000}}
    )
    assert policy_of(settings, "a").max_inline_bytes == 5000
    assert policy_of(settings, "b").max_inline_bytes == 9000


async def test_the_result_of_a_call_without_a_task_is_its_own_scopes_alone() -> None:
    from raincheck.operations.operation import Policy

    store = MemoryStore()
    await store.open()
    results = Results(store, RecordBlobStore(store), clock=utc_now)
    await results.offload_of_request(Outcome(value="x" * 70_000), "ref", "me", Policy())
    assert (await (await results.of_request("ref", "me")).read()) == b"x" * 70_000
    for ref, scope in (("ref", "you"), ("other", "me"), ("", "me"), ("rëf", "me"), ("x" * 300, "me"), ("a\0", "me")):
        with pytest.raises(TaskNotFound):
            await results.of_request(ref, scope)
    await store.close()


async def test_the_answer_on_the_page_has_the_members_of_a_real_one() -> None:
    shown = PAGE.read_text(encoding="utf-8").split("```json\n", 1)[1].split("```", 1)[0]
    now = utc_now()
    task = Task(
        task_ref="8Zr1",
        scope="me",
        operation_type="o",
        arguments={},
        created_at=now,
        updated_at=now,
        deadline_at=now,
        ttl_seconds=60,
        status=TaskStatus.COMPLETED,
    )
    from raincheck.operations.operation import Policy

    rows = [{"id": each, "name": "Ada"} for each in range(10_000)]
    outcome = await Results(MemoryStore(), None, clock=utc_now).offload(Outcome(value={"rows": rows}), task, Policy())
    assert outcome.large is not None
    from dataclasses import replace

    status = status_of(replace(task, outcome=outcome), poll_after_seconds=None)
    told = json.loads(shown)
    assert set(told) <= set(status)
    assert set(told["result"]) == set(status["result"]) == set(public_preview(outcome.large))
    assert status["result"]["preview"]["rows"][-1] == "… 9995 more items"
