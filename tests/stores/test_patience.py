"""On every store: what hang-ups teach is there for the next process, and a store that lets it expire forgets it."""

from __future__ import annotations

from datetime import timedelta

from stores.records import NOW

from raincheck.polling.known_clients import Client
from raincheck.polling.patience_store import KIND, PatienceStore
from raincheck.ports.records import RecordQuery
from raincheck.ports.task_store import TaskStore

AGENT = Client("agent \x00é\ud800", "1")
SCOPE = "principal:iss=https%3A%2F%2Fid.example|sub=é" + "x" * 300


async def test_what_one_process_learned_the_next_one_knows(store: TaskStore) -> None:
    one = PatienceStore(store, clock=lambda: NOW)
    one.start()
    one.hung_up(AGENT, SCOPE, after_seconds=5.0)
    await one.stop()
    other = PatienceStore(store, clock=lambda: NOW + timedelta(minutes=5))
    other.start()
    assert await other.seconds(AGENT, SCOPE) == 5.0
    assert await other.seconds(AGENT, "local") is None
    other.hung_up(AGENT, SCOPE, after_seconds=4.9)
    await other.stop()
    later = PatienceStore(store, clock=lambda: NOW + timedelta(days=29))
    later.start()
    assert await later.seconds(AGENT, SCOPE) == 4.9
    await later.stop()
    await store.purge(NOW + timedelta(days=31), 1000)
    assert not await store.records(RecordQuery(KIND))
