"""The webhook dispatcher: a loop in every process; compare-and-set decides between them.

A delivery is leased by moving its `due_at` beyond the longest attempt: it comes due again if this process dies.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from raincheck.egress.client import trusted_certificates
from raincheck.egress.errors import OutgoingError
from raincheck.egress.policy import EgressPolicy, Target
from raincheck.egress.retry_after import retry_after
from raincheck.errors import StoreError
from raincheck.operations.catalog import OperationCatalog
from raincheck.ports.records import Record, RecordQuery, RecordStore
from raincheck.timing.background import BackgroundLoop
from raincheck.webhooks.delivery import PENDING, Delivery
from raincheck.webhooks.payload import body_of, message_id
from raincheck.webhooks.policy import WebhookRules

logger = logging.getLogger(__name__)

_BATCH = 50
_LOOK_SECONDS = 2.0
_LEASE_MARGIN_SECONDS = 3.0
_LONGEST_BACKOFF_SECONDS = 3600.0
_ELSEWHERE_SECONDS = 15.0
_STORE_RETRY_SECONDS = (0.1, 0.5, 2.0)
_PER_HOST = 4
_SLOW_SECONDS = 1.0
_MOST_HOSTS = 10_000
_GONE = 410


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    """What is sent where."""

    url: str
    rules: EgressPolicy
    secrets: tuple[str, ...]
    headers: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    """Why an attempt failed; `after` is what the receiver asked to wait, in seconds."""

    error: str
    after: float | None = None
    final: bool = False


class WebhookDispatcher:
    """Delivers what the outbox holds.

    Args:
        store: The open store.
        rules: How.
        operations: Looks up an operation by name, for its own webhook.
        names: The names of those that this process knows.
        clock: What time it is for the tasks.
        rng: For the jitter.
    """

    def __init__(
        self,
        store: RecordStore,
        rules: WebhookRules,
        operations: OperationCatalog,
        *,
        clock: Callable[[], datetime],
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self._rules = rules
        self._operations = operations
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311  no secret
        self._loop = BackgroundLoop(
            "webhooks",
            self._look,
            purpose="look for deliveries",
            seconds=_LOOK_SECONDS,
            random_between=self._rng.uniform,
        )
        self._running: dict[str, asyncio.Task[None]] = {}
        self._leased: dict[str, Record] = {}
        self._busy: Counter[str] = Counter()
        self._troubled: set[str] = set()
        self._waiting: dict[str, deque[Record]] = {}
        self._more = False
        self._written = False

    def start(self) -> None:
        """Begin, with what is due already."""
        self._loop.start()

    def wake(self) -> None:
        """There is something new to deliver."""
        self._written = True
        self._loop.wake()

    async def stop(self, grace_seconds: float) -> None:
        """Stop: attempts under way have `grace_seconds`; what they leave is given back, to others or the next start."""
        await self._loop.stop()
        under_way = list(self._running.values())
        if under_way:
            await asyncio.wait(under_way, timeout=grace_seconds)
        for each in under_way:
            each.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        now = self._clock()
        for record in list(self._leased.values()):
            try:
                await self._store.put_record(replace(record, version=record.version + 1, due_at=now))
            except StoreError as error:
                logger.warning("a delivery is not given back, its lease will run out: %s", error.message)
        self._leased.clear()

    async def _look(self) -> None:
        if self._wanted():
            # Reading the machine's certificates takes some 50 ms: not on the event loop.
            await asyncio.to_thread(trusted_certificates)
            await self.deliver_due()

    async def deliver_due(self) -> None:
        """Begin every delivery that is due and has a place; the others of the listing wait for one."""
        while True:
            due = await self._store.records(RecordQuery(PENDING, due=self._clock(), limit=_BATCH))
            self._more = len(due) == _BATCH
            self._waiting.clear()
            deferred = 0
            for record in due:
                if record.key in self._running:
                    continue
                host = self._host(record)
                if self._more and host in self._troubled and self._busy[host]:
                    # A receiver that hangs must not hold up others: its many make room in the listing.
                    later = self._clock() + timedelta(seconds=self._rules.timeout_seconds * self._rng.uniform(0.5, 1.5))
                    deferred += await self._store.put_record(replace(record, version=record.version + 1, due_at=later))
                else:
                    self._waiting.setdefault(host, deque()).append(record)
                    self._begin_waiting()
            if not deferred:
                return

    def _begin_waiting(self) -> None:
        for host in list(self._waiting):
            records = self._waiting[host]
            while records and len(self._running) < self._rules.max_concurrency:
                if self._busy[host] >= (1 if host in self._troubled else _PER_HOST):
                    break
                self._begin(records.popleft(), host)
            if not records:
                del self._waiting[host]

    def _wanted(self) -> bool:
        """Whether there can be deliveries: a server without webhooks asks its store for none."""
        if self._written or self._rules.secrets:
            return True
        return any(operation.policy.webhook is not None for operation in self._operations.values())

    async def until_idle(self) -> None:
        """Until no attempt is under way."""
        while self._running:
            await asyncio.wait(list(self._running.values()))

    def _begin(self, record: Record, host: str) -> None:
        self._busy[host] += 1
        task = asyncio.create_task(self._deliver(record, host), name="raincheck-webhook")
        self._running[record.key] = task
        slow = asyncio.get_running_loop().call_later(_SLOW_SECONDS, self._is_slow, host)

        def ended(_: asyncio.Task[None]) -> None:
            slow.cancel()
            del self._running[record.key]
            self._busy[host] -= 1
            if not self._busy[host]:
                del self._busy[host]
            if self._loop.running:
                self._begin_waiting()
                if self._more and not self._waiting:
                    self._loop.wake()

        task.add_done_callback(ended)

    def _is_slow(self, host: str) -> None:
        if len(self._troubled) < _MOST_HOSTS:
            self._troubled.add(host)
        self._loop.wake()

    def _host(self, record: Record) -> str:
        """Whose places it takes."""
        value = record.value
        target: str | None = value["targets"][0]
        if target is None:
            operation = self._operations.get(str(value["operation_type"]))
            webhook = operation.policy.webhook if operation else None
            return webhook.host if webhook else f"the webhook of {value['operation_type']}"
        try:
            return Target.parse(target).origin
        except OutgoingError:
            return target

    async def _deliver(self, record: Record, host: str) -> None:
        try:
            lease = timedelta(seconds=self._rules.timeout_seconds + _LEASE_MARGIN_SECONDS)
            leased = replace(record, version=record.version + 1, due_at=self._clock() + lease)
            if not await self._store.put_record(leased):
                return
            self._leased[record.key] = leased
            leased = await self._parted(leased)
            delivery = Delivery.of(leased)
            order = self._order(delivery)
            if order is None:
                await self._with_retry(self._store.remove_record, leased)
            elif isinstance(order, _Failure):
                await self._failed(leased, delivery, order)
            else:
                await self._sent(leased, delivery, host, await self._attempt(delivery, order))
            self._leased.pop(record.key, None)
        except StoreError as error:
            self._leased.pop(record.key, None)
            logger.warning("a delivery waits for its lease to run out: %s", error.message)
        except Exception:  # one delivery's bug is not the others'
            self._leased.pop(record.key, None)
            logger.exception("a delivery failed")

    async def _parted(self, record: Record) -> Record:
        """The delivery to its first target; the others become deliveries of their own."""
        delivery = Delivery.of(record)
        first, *others = delivery.targets
        if not others:
            return record
        for number, target in enumerate(others, start=2):
            # Where it is there already, a process died in the middle of this.
            other = replace(delivery, targets=(target,))
            await self._store.put_record(
                other.pending(f"{delivery.task_ref}.{number}", version=1, due_at=self._clock())
            )
        assert record.due_at is not None
        parted = replace(delivery, targets=(first,)).pending(
            record.key, version=record.version + 1, due_at=record.due_at
        )
        if await self._store.put_record(parted):
            self._leased[record.key] = parted
        self.wake()
        return parted

    def _order(self, delivery: Delivery) -> _Order | _Failure | None:
        """What to send where; None where it is not wanted any more."""
        target = delivery.targets[0]
        if target is not None:
            if not self._rules.secrets:
                return _Failure(error="no secret is set in [webhooks] of this process")
            return _Order(url=target, rules=self._rules.of_callbacks(), secrets=self._shared(target), headers={})
        operation = self._operations.get(delivery.operation_type)
        if operation is None:
            return _Failure(error="this process does not know the operation", after=_ELSEWHERE_SECONDS)
        webhook = operation.policy.webhook
        if webhook is None or delivery.event not in webhook.events:
            return None
        secrets = tuple(webhook.secrets) or self._shared(webhook.url)
        if not secrets:
            return _Failure(error="no secret is set for this webhook in this process")
        return _Order(
            url=webhook.url, rules=self._rules.of_own(webhook.url), secrets=secrets, headers=dict(webhook.headers)
        )

    def _shared(self, url: str) -> tuple[str, ...]:
        """The secrets of [webhooks], as they are for that receiver."""
        from raincheck.webhooks.signing import secrets_of

        return secrets_of(self._rules.secrets, url)

    async def _attempt(self, delivery: Delivery, order: _Order) -> _Failure | None:
        from raincheck.webhooks.signing import signed

        body = body_of(delivery.message)
        # The address is checked, and the time is bounded, by the client.
        client = self._rules.client(order.rules, self._rules.timeout_seconds)
        headers = signed(order.secrets, message_id(delivery.task_ref), self._clock(), body)
        try:
            answer = await client.request(
                "POST",
                order.url,
                headers=order.headers | {"content-type": "application/json"} | headers,
                content=body,
                read_body=False,
            )
        except OutgoingError as error:
            return _Failure(error=error.message)
        if 200 <= answer.status < 300:
            return None
        asked = retry_after(answer.headers.get("retry-after"), longest=_LONGEST_BACKOFF_SECONDS, now=self._clock())
        redirect = " (redirects are not followed)" if 300 <= answer.status < 400 else ""
        return _Failure(error=f"status {answer.status}{redirect}", after=asked, final=answer.status == _GONE)

    async def _sent(self, record: Record, delivery: Delivery, host: str, failure: _Failure | None) -> None:
        if failure is not None:
            self._is_slow(host)
            await self._failed(record, replace(delivery, attempts=delivery.attempts + 1), failure)
            return
        self._troubled.discard(host)
        await self._with_retry(self._store.remove_record, record)
        logger.info("webhook delivered to %s", host, extra=_extra(delivery))

    async def _failed(self, record: Record, delivery: Delivery, failure: _Failure) -> None:
        delivery = replace(delivery, error=failure.error)
        now = self._clock()
        end = delivery.since + timedelta(seconds=self._rules.give_up_seconds)
        if failure.final or now >= end:
            await self._give_up(record, replace(delivery, died_at=now))
            return
        wait = max(self._backoff(delivery.attempts), failure.after or 0.0)
        later = delivery.pending(record.key, version=record.version + 1, due_at=min(now + timedelta(seconds=wait), end))
        await self._with_retry(self._store.put_record, later)
        if wait < _LOOK_SECONDS:
            asyncio.get_running_loop().call_later(wait, self._loop.wake)
        log = logger.warning if delivery.attempts == 1 else logger.info
        log("webhook not delivered, again in %.0f s: %s", wait, failure.error, extra=_extra(delivery))

    async def _give_up(self, record: Record, delivery: Delivery) -> None:
        there = await self._store.get_record(delivery.dead(record.key, version=1).kind, record.key)
        dead = delivery.dead(record.key, version=1 if there is None else there.version + 1)
        await self._with_retry(self._store.put_record, dead)
        await self._with_retry(self._store.remove_record, record)
        logger.error(
            "webhook given up after %d attempts: %s", delivery.attempts, delivery.error, extra=_extra(delivery)
        )

    def _backoff(self, attempts: int) -> float:
        """Full jitter: between attempts of many deliveries there is nothing in common."""
        first = self._rules.first_backoff_seconds
        longest = min(_LONGEST_BACKOFF_SECONDS, first * 2 ** min(max(0, attempts - 1), 20))
        return max(first / 10, self._rng.uniform(0, longest))

    async def _with_retry(self, write: Callable[[Record], Awaitable[bool]], record: Record) -> None:
        """Write what became of an attempt, also where the store does not answer at once: else it is made again."""
        for pause in _STORE_RETRY_SECONDS:
            try:
                await write(record)
                return
            except StoreError:
                await asyncio.sleep(pause)
        await write(record)


def _extra(delivery: Delivery) -> dict[str, str]:
    return {"task_ref": delivery.task_ref, "operation": delivery.operation_type}
