"""Every end of a task is told, at least once: by real services, to real receivers that fail, hang and lie."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from operations.http_server import answer
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError
from webhooks.receiver import FINE, OTHER_SECRET, SECRET, Receiver, hang, receiving

from raincheck.egress.ip_ranges import network_of
from raincheck.egress.policy import HostRule
from raincheck.encryption.cipher import KEY_BYTES, PayloadCipher
from raincheck.encryption.task_store import EncryptedTaskStore
from raincheck.errors import IdempotencyConflict, InvalidParameters, OperationFailed
from raincheck.operations.context import TaskContext
from raincheck.operations.webhook import Webhook
from raincheck.ports.records import RecordQuery
from raincheck.runtime.service import Service
from raincheck.stores.memory.store import MemoryStore
from raincheck.webhooks.admin import DeliveryAdmin
from raincheck.webhooks.delivery import PENDING, Delivery
from raincheck.webhooks.policy import WebhookRules
from raincheck.webhooks.signing import secret_of
from support.lab import Lab
from support.waiting import PATIENCE


def rules(*receivers: Receiver, **values: Any) -> WebhookRules:
    usual: dict[str, Any] = {
        "allow": [HostRule.parse(each.host) for each in receivers],
        "secrets": (SECRET,),
        "timeout_seconds": 5.0,
        "first_backoff_seconds": 0.02,
    }
    return WebhookRules(**{**usual, **values})


async def echo(arguments: Mapping[str, Any], context: TaskContext) -> Any:
    return arguments.get("value")


async def submit(service: Service, callback_url: str | None = None, operation: str = "echo", **values: Any) -> str:
    """The ref of a task of the operation."""
    done = await service.registry.submit(operation, {}, scope="ada", callback_url=callback_url, **values)
    return done.task.task_ref


async def until_pending(
    store: MemoryStore, number: int, seconds: float = PATIENCE, *, error: str = ""
) -> list[Delivery]:
    """The pending deliveries, once there are so many, each with that error."""
    async with asyncio.timeout(seconds):
        while True:
            pending = [Delivery.of(record) for record in await store.records(RecordQuery(PENDING))]
            if len(pending) == number and all(error in (each.error or "") for each in pending):
                return pending
            await asyncio.sleep(0.01)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "tasks.db")
    lab.operation("echo")(echo)
    return lab


async def test_every_kind_of_end_is_told_with_the_status_and_a_signature(lab: Lab) -> None:
    """Completed, failed, cancelled, and the deadline that the sweeper found."""
    started = asyncio.Event()

    @lab.operation("break")
    async def break_(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        raise OperationFailed("no paper", details={"tray": 2})

    @lab.operation("wait")
    async def wait_(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        started.set()
        await asyncio.Event().wait()

    async with receiving() as receiver, lab.service(webhooks=rules(receiver)) as service:

        async def ask(name: str, seconds: float = 60.0) -> str:
            submission = await service.registry.submit(
                name, {"value": "given"}, scope="ada", max_wait_seconds=seconds, callback_url=receiver.url
            )
            return submission.task.task_ref

        refs = {"completed": await ask("echo"), "failed": await ask("break"), "cancelled": await ask("wait")}
        await asyncio.wait_for(started.wait(), 5)
        await service.registry.cancel(refs["cancelled"], scope="ada")
        late = await ask("wait", 0.2)
        await receiver.got(4)
        for kind, ref in refs.items():
            (message,) = receiver.of(ref)
            assert message["type"] == f"task.{kind}"
            assert message["data"]["status"] == kind
            assert message["data"]["terminal"] is True
        (message,) = receiver.of(refs["completed"])
        assert message["data"]["result"] == "given"
        assert set(message) == {"type", "timestamp", "data"}
        assert "arguments" not in message["data"]
        (message,) = receiver.of(refs["failed"])
        assert message["data"]["error"]["details"] == {"tray": 2}
        assert "given" not in str(message)
        (message,) = receiver.of(late)
        assert message["data"]["error"]["details"]["limit"] == "deadline"
        assert sorted(receiver.ids) == sorted(f"msg_{ref}" for ref in (*refs.values(), late))


async def test_a_receiver_that_fails_is_asked_again_under_the_same_id_until_it_takes_it(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    answers = (answer(500), answer(302, location="http://127.0.0.1:1/"), answer(503, retry_after="0"), FINE)
    store = MemoryStore()
    async with receiving(*answers) as receiver, lab.service(store=store, webhooks=rules(receiver)) as service:
        await submit(service, f"{receiver.url}?token=hunter2")
        await receiver.got(4)
        await until_pending(store, 0)
        assert len(set(receiver.ids)) == 1
    assert "status 500" in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_receiver_that_hangs_does_not_hold_up_the_others(lab: Lab) -> None:
    """Although it has more deliveries than there are places."""
    async with (
        receiving(hang) as hanging,
        receiving() as healthy,
        lab.service(webhooks=rules(hanging, healthy, max_concurrency=6)) as service,
    ):
        for _ in range(120):
            await submit(service, hanging.url)
        await hanging.got(4)
        for _ in range(5):
            await submit(service, healthy.url)
        await healthy.got(5, 4)
        assert len(hanging.messages) == 4


async def test_an_answer_without_end_is_delivered_and_one_that_never_comes_is_not(lab: Lab) -> None:
    async def endless(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()

    store = MemoryStore()
    async with (
        receiving(endless) as receiver,
        receiving(hang) as hanging,
        lab.service(
            store=store, webhooks=rules(receiver, hanging, timeout_seconds=0.2, first_backoff_seconds=60.0)
        ) as service,
    ):
        await submit(service, receiver.url)
        ref = await submit(service, hanging.url)
        await hanging.got(1)
        (left,) = await until_pending(store, 1, error="did not answer within 0.2 s")
        assert (left.task_ref, left.attempts) == (ref, 1)


async def test_a_host_that_lies_about_its_address_gets_no_request_and_is_named_in_the_list(lab: Lab) -> None:
    store = MemoryStore()
    async with receiving() as receiver:
        liar = f"http://localhost:{receiver.server.port}"
        receiver.secret = secret_of(SECRET, liar)
        for networks, error in (((), "not public"), ((network_of("127.0.0.0/8"), network_of("::1")), "")):
            allowed = rules(allow=[HostRule.parse(liar)], networks=networks, first_backoff_seconds=60.0)
            async with lab.service(store=store, webhooks=allowed) as service:
                if error:
                    ref = await submit(service, f"{liar}/hook")
                    await until_pending(store, 1, error=error)
                    assert receiver.server.connections == 0
                    assert await DeliveryAdmin(store).retry_dead() == 0
                    assert await DeliveryAdmin(store).retry(ref) == 1
                else:
                    await until_pending(store, 0)
                    assert len(receiver.messages) == 1


async def test_an_operations_own_webhook_is_told_with_its_headers_and_secrets_and_a_caller_too(lab: Lab) -> None:
    async with receiving(secret=OTHER_SECRET) as own, receiving() as theirs:
        url = f"{own.url}/own?token=hunter2"
        lab.operation(
            "own",
            webhook=Webhook(
                url=url, secrets=[OTHER_SECRET, SECRET], headers={"X-Team": "a"}, events=["completed", "failed"]
            ),
        )(echo)
        store = MemoryStore()
        async with lab.service(store=store, webhooks=rules(theirs)) as service:
            both = await submit(service, theirs.url, "own")
            assert await theirs.got(1) == await own.got(1)
            assert [message["data"]["task_ref"] for message in own.messages] == [both]
            await submit(service, None, "own")
            await own.got(2)
            await until_pending(store, 0)
            task = await store.get(both)
        received = own.server.received[0]
        assert received.headers["x-team"] == "a"
        assert Verifier(SECRET).verify(received.body, received.headers), "the old secret signs as well"
        assert "x-team" not in theirs.server.received[0].headers
        assert len(theirs.messages) == 1
        assert task is not None
        assert "hunter2" not in str(task), "an operation's address stays in the settings"


async def test_no_receiver_can_sign_for_another(lab: Lab) -> None:
    lab.operation("own")(echo)
    async with receiving() as one, receiving() as other:
        async with lab.service(webhooks=rules(one, other)) as service:
            for receiver in (one, other):
                await submit(service, f"{receiver.url}/own", "own")
                await receiver.got(1)
        received = one.server.received[0]
        for secret in (SECRET, other.secret):
            with pytest.raises(WebhookVerificationError):
                Verifier(secret).verify(received.body, received.headers)
        # One origin, one secret: whatever the path, and the port that is the scheme's own.
        assert secret_of(SECRET, "https://a.example/x?y") == secret_of(SECRET, "https://A.example:443/")


async def test_an_end_that_an_operations_webhook_does_not_want_is_not_told(lab: Lab) -> None:
    async with receiving() as receiver:
        lab.operation("own", webhook=Webhook(url=receiver.url, events=["failed"]))(echo)
        store = MemoryStore()
        async with lab.service(store=store, webhooks=rules()) as service:
            await submit(service, None, "own")
            await service.registry.wait(await submit(service, None, "own"), scope="ada", seconds=PATIENCE)
            await until_pending(store, 0)
    assert receiver.messages == []


async def test_an_operation_without_a_webhook_tells_nobody_and_its_server_looks_for_no_deliveries(lab: Lab) -> None:
    asked: list[str] = []

    class Asked(MemoryStore):
        async def records(self, query: RecordQuery) -> Any:
            asked.append(query.kind)
            return await super().records(query)

    async with lab.service(store=Asked()) as service:
        await service.registry.wait(await submit(service), scope="ada", seconds=PATIENCE)
        assert PENDING not in asked


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "1 to 2048 characters"),
        ("hooks.example.com", "begins with https://"),
        ("http://hooks.example.com/", "not among the allowed hosts; allowed: hooks.example.com"),
        ("https://evil.example.com/", "not among the allowed hosts"),
        ("https://hooks.example.com:8443/", "not among the allowed hosts"),
        ("https://ada:hunter2@hooks.example.com/", "no user and no password"),
        ("https://169.254.169.254/latest/meta-data/", "not among the allowed hosts"),
        ("https://hooks.example.com/ https://evil.example.com/", "without blanks"),
        ("operation:", "begins with https://"),
        ("https://hooks.example.com/" + "x" * 2048, "1 to 2048 characters"),
    ],
)
async def test_a_callback_url_that_is_not_allowed_is_refused_in_one_line_and_leaves_no_trace(
    lab: Lab, url: str, told: str
) -> None:
    store = MemoryStore()
    async with lab.service(store=store, webhooks=rules(allow=[HostRule.parse("hooks.example.com")])) as service:
        with pytest.raises(InvalidParameters) as refused:
            await submit(service, url)
        assert refused.value.message.startswith("callback_url: ")
        assert told in refused.value.message
        assert "hunter2" not in refused.value.message
        assert len(refused.value.message.splitlines()) == 1
        assert sum((await store.count()).values()) == 0


async def test_without_allowed_hosts_no_callback_url_is_taken(lab: Lab) -> None:
    async with lab.service(store=MemoryStore()) as service:
        with pytest.raises(InvalidParameters, match="calls nobody back"):
            await submit(service, "https://hooks.example.com/")


async def test_another_callback_url_under_the_same_key_is_a_conflict_and_the_same_one_is_not(lab: Lab) -> None:
    async with (
        receiving() as receiver,
        lab.service(store=MemoryStore(), webhooks=rules(receiver)) as service,
    ):
        first = await submit(service, receiver.url, idempotency_key="k")
        assert await submit(service, receiver.url, idempotency_key="k") == first
        for other in (f"{receiver.url}/other", None):
            with pytest.raises(IdempotencyConflict):
                await submit(service, other, idempotency_key="k")
        await receiver.got(1)


async def test_a_stop_gives_an_attempt_under_way_back_and_the_next_start_makes_it_at_once(lab: Lab) -> None:
    store = MemoryStore()
    async with receiving(hang, FINE) as receiver:
        async with lab.service(store=store, webhooks=rules(receiver)) as service:
            await submit(service, receiver.url)
            await receiver.got(1)
        async with lab.service(store=store, webhooks=rules(receiver)), asyncio.timeout(3):
            await receiver.got(2)
            await until_pending(store, 0)
    assert len(set(receiver.ids)) == 1


async def test_on_a_store_that_seals_payloads_a_delivery_is_sealed_and_arrives_in_clear(lab: Lab) -> None:
    kept = MemoryStore()
    async with (
        receiving(answer(500, retry_after="0.5"), FINE) as receiver,
        lab.service(
            store=EncryptedTaskStore(kept, PayloadCipher([b"k" * KEY_BYTES])), webhooks=rules(receiver)
        ) as service,
    ):
        done = await service.registry.submit("echo", {"value": "v" * 10}, scope="ada", callback_url=receiver.url)
        await receiver.got(1)
        (record,) = await kept.records(RecordQuery(PENDING))
        task = await kept.get(done.task.task_ref)
        assert task is not None
        for shown in (str(record.value), str(task.callback_url)):
            assert not {word for word in ("v" * 10, "127.0.0.1") if word in shown}
        assert (await receiver.got(2))[1]["data"]["result"] == "v" * 10
