"""The contract of every store: who called comes back with the task, whatever becomes of it."""

from __future__ import annotations

from stores.records import NOW, after, apply, claimed, new_task, settled, stored

from raincheck.domain.caller import Caller, Credentials
from raincheck.domain.transitions import Claim
from raincheck.ports.task_store import TaskStore

ADA = Caller(
    scope="ada",
    subject="ada\ud800é",
    issuer="https://login.example.com",
    client_id="app",
    granted_scopes=("reports.read",),
    claims={"tenant": {"id": 7}},
    client_name="claude-code",
)


async def test_who_called_comes_back(store: TaskStore) -> None:
    secret = Credentials(token="t" * 6000, expires_at=2e9, claims={"email": "a@x"}, headers={"x-tenant": "acme"})
    large = Caller(scope="ada", subject="ada", credentials=secret)
    for caller in (ADA, large, None):
        task = await stored(store, caller=caller)
        assert list(await store.claimable(["report"], 1)) == [task]
        task = await apply(store, task, Claim(worker_id="w", lease_until=after(30)))
        held = await store.get(task.task_ref)
        assert held is not None
        assert held == task
        assert held.called_by.credentials == (caller and caller.credentials)
        assert await store.replace(settled(task, at=NOW))
        ended = await store.get(task.task_ref)
        assert ended is not None
        assert ended.caller == caller


def test_a_task_tells_of_its_caller_without_what_it_was_let_in_with() -> None:
    task = claimed(new_task(caller=Caller(scope="ada", subject="ada", credentials=Credentials(token="s3cr3t-token"))))
    assert "s3cr3t" not in repr(task)
    assert "s3cr3t" not in str(task.called_by.public())
    assert "s3cr3t" not in repr(task.called_by.credentials)
