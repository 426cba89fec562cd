"""One task's life on a worker: claim, run within its limits, settle.

The operation's own code runs in an asyncio task of its own, so that code that will not stop cannot keep its task from
being settled in time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from raincheck.domain.task import Outcome, Task, TaskStatus
from raincheck.domain.transitions import Claim, DeadlinePassed, Event, Refused, Release, Settle, transition
from raincheck.errors import InternalError, StoreError, StoreUnavailable
from raincheck.limits.limiter import Limiter, Permit
from raincheck.operations.catalog import OperationCatalog
from raincheck.operations.lease import driven, verified_until
from raincheck.operations.operation import Operation
from raincheck.ports.engine import Slot
from raincheck.runtime.attempt import failure, guarded, log_deadline, timed_out, worth_retrying
from raincheck.runtime.execution import Execution, Interrupted, WorkerParts
from raincheck.tasks import task_log
from raincheck.tasks.watch import TaskWatch
from raincheck.timing.clock import monotonic

logger = logging.getLogger(__name__)

_STUBBORN_SECONDS = 10.0
# A claim that took longer is looked at once more before the operation begins.
_FRESH_SECONDS = 0.02
_RETRY_SECONDS = 0.5


class Runner:
    """Runs tasks on this worker.

    Args:
        parts: What its executions share.
        operations: The operations of this process.
        worker_id: This worker's name in the store.
        lease_seconds: How long a claim is good for without renewal.
        returned: Told of each task that this worker gave back: it is pending again.
        limiter: Gives the permits that limited operations need; None: nothing is limited.
    """

    def __init__(
        self,
        parts: WorkerParts,
        operations: OperationCatalog,
        *,
        worker_id: str,
        lease_seconds: float,
        returned: Callable[[Task], Awaitable[None]] | None = None,
        limiter: Limiter | None = None,
    ) -> None:
        self._limiter = limiter
        self._returned = returned
        self._parts = parts
        self._store = parts.store
        self._changes = parts.changes
        self._operations = operations
        self._worker_id = worker_id
        self._lease = timedelta(seconds=lease_seconds)
        self._clock = parts.writer.clock
        self._runs: dict[str, Execution] = {}
        self._stopping = False

    @property
    def leases(self) -> dict[str, int]:
        """The tasks claimed here with their fencing numbers; safe to read from any thread."""
        return {run.task_ref: run.fence for run in tuple(self._runs.values())}

    def renewed(self, leases: Mapping[str, int], asked: float) -> None:
        """These leases (fencing numbers by task) were renewed when that was asked for at that time; from any thread."""
        until = verified_until(asked, self._lease.total_seconds())
        for task_ref, fence in leases.items():
            if (run := self._runs.get(task_ref)) is not None and run.fence == fence:
                run.lease.renew(until)

    def held_until(self) -> float | None:
        """When the first lease here is over unless it is renewed; None where nothing runs."""
        return min((run.lease.until for run in self._runs.values() if not run.lease.revoked), default=None)

    def lapsed(self) -> Sequence[Execution]:
        """What runs here under a lease that is over, or nearly so, and not known to be lost."""
        now = monotonic()
        return [run for run in self._runs.values() if run.lease.until <= now and not run.lease.revoked]

    def lost(self, task_refs: Collection[str]) -> None:
        """These leases are gone: stop what runs under them."""
        for task_ref in task_refs:
            # A task that was settled at that moment has no lease either.
            if (run := self._runs.get(task_ref)) is not None and run.stop_reason in (None, "timeout"):
                logger.warning(
                    "lease lost, stopping", extra={"task_ref": task_ref, "operation": run.task.operation_type}
                )
                run.interrupt("lost")

    def interrupt_all(self) -> None:
        """The worker shuts down: stop everything, begin nothing more, and give back what may run again."""
        self._stopping = True
        for run in tuple(self._runs.values()):
            run.interrupt("shutdown")

    async def run(self, task: Task, slot: Slot) -> None:
        """Claim the task and see it to its end; returns at once where another worker has it. Raises nothing."""
        operation = self._operations.get(task.operation_type)
        if operation is None or self._stopping:
            return
        if self._limiter is None or not self._limiter.limits(operation):
            await self._run(task, operation, slot)
            return
        try:
            permit = await self._limiter.take(operation, task, slot)
        except StoreError as error:
            logger.warning("cannot take a permit: %s", error.message, extra={"task_ref": task.task_ref})
            return
        if permit is None:
            return
        claimed = False
        try:
            claimed = await self._run(task, operation, permit, permit)
        finally:
            permit.give_back(started=claimed)

    async def _run(self, task: Task, operation: Operation, slot: Slot, permit: Permit | None = None) -> bool:
        """Whether the task was claimed; it is at its end then, as far as it goes here."""
        # Before the claim: what another process does to the claimed task while its answer is under way is heard of.
        with self._changes.watch(task.task_ref) as watch:
            try:
                claim = await self._claim(task, watch)
            except StoreError as error:
                logger.warning("cannot claim a task: %s", error.message, extra={"task_ref": task.task_ref})
                return False
            if claim is None:
                return False
            claimed, asked = claim
            run = Execution(
                claimed,
                operation,
                self._parts,
                slot=slot,
                lease=self._lease,
                asked=asked,
            )
            task_log.started(claimed)
            self._runs[task.task_ref] = run
            self._changes.add(run)
            if (newer := watch.latest) is not None:
                run.notify(newer)
            if self._stopping:
                # Told to stop while the claim was under way.
                run.interrupt("shutdown")
        deadline = run.loop.call_later(
            max(0.0, (claimed.deadline_at - self._clock()).total_seconds()), run.interrupt, "deadline"
        )
        try:
            await self._execute_and_settle(run, permit)
        except Exception:  # noqa: BLE001  the boundary of one task: a bug here must not end the worker
            await self._settle_as_internal(run)
        finally:
            deadline.cancel()
            self._changes.remove(run)
            del self._runs[task.task_ref]
            run.lease.end()
        if run.task.status is TaskStatus.PENDING and run.stop_reason == "shutdown" and self._returned is not None:
            await self._returned(run.task)
        return True

    async def _claim(self, task: Task, watch: TaskWatch) -> tuple[Task, float] | None:
        """The claimed task and when its lease was asked for; None where it is not to be had."""
        asked, now = monotonic(), self._clock()
        try:
            claimed = transition(task, Claim(worker_id=self._worker_id, lease_until=now + self._lease), now)
        except Refused:
            return None
        watch.seen(claimed)
        try:
            if not await self._store.replace(claimed, lease_seconds=self._lease.total_seconds()):
                return None
        except StoreUnavailable as error:
            if not error.maybe_done:
                raise
            if (renewed := await self._holds(claimed)) is None:
                return None
            asked = renewed
        return claimed, asked

    async def _holds(self, claimed: Task) -> float | None:
        """When the lease was renewed of a claim whose answer was lost, None where it was not made.

        Not looked for, the task would end as that of a lost worker.

        Raises:
            StoreError: The store has not answered for a lease, or the worker stops.
        """
        seconds = self._lease.total_seconds()
        give_up_at = monotonic() + seconds
        while True:
            leases, until = {claimed.task_ref: claimed.fence}, self._clock() + self._lease
            asked = monotonic()
            try:
                lost = await self._store.renew(self._worker_id, leases, until, lease_seconds=seconds)
            except StoreError:
                if self._stopping or monotonic() > give_up_at:
                    raise
            else:
                return None if lost else asked
            await asyncio.sleep(_RETRY_SECONDS)

    async def _settle_as_internal(self, run: Execution) -> None:
        """The run broke in our own code, or with an outcome that no store can hold; in an exception's handler."""
        correlation = secrets.token_hex(8)
        extra = {"task_ref": run.task_ref, "operation": run.task.operation_type}
        logger.exception("internal error %s", correlation, extra=extra)
        error = InternalError("Something went wrong in the worker.", details={"correlation_id": correlation})
        try:
            await run.apply_with_retry(Settle(fence=run.fence, outcome=failure(error)), tries=5)
        except (Refused, StoreError) as refused:
            logger.warning("the task is left to the sweeper: %s", refused, extra=extra)

    async def _execute_and_settle(self, run: Execution, permit: Permit | None) -> None:
        try:
            if permit is not None:
                await permit.verified_until(run.sleep)
            outcome = await self._attempts(run)
        except Interrupted as interrupted:
            event = self._event_of(run, interrupted)
        else:
            # A result is durable before anybody can learn of it.
            kept = await self._parts.results.offload(
                outcome, run.task, run.operation.policy, give_up=lambda: run.stop_reason is not None
            )
            event = Settle(fence=run.fence, outcome=kept)
        await run.end_reports()
        if event is None:
            return
        try:
            await run.apply_with_retry(event, tries=5 if isinstance(event, Release) else None)
        except Refused as refused:
            if isinstance(event, Settle):
                # It may have been written, and the answer lost.
                await self._parts.results.drop(event.outcome, stored=run.task.outcome)
            logger.info(
                "outcome discarded: %s",
                refused.reason,
                extra={"task_ref": run.task_ref, "operation": run.task.operation_type},
            )

    def _event_of(self, run: Execution, interrupted: Interrupted) -> Event | None:
        match interrupted.reason:
            case "timeout":
                return Settle(fence=run.fence, outcome=failure(timed_out(run.operation, run.task_ref)))
            case "deadline":
                log_deadline(run.task)
                return DeadlinePassed(repeatable=run.operation.repeatable)
            case "shutdown":
                return Release(fence=run.fence)
            case "settled" | "lost":
                return None

    async def _attempts(self, run: Execution) -> Outcome:
        """Run the operation until an attempt succeeds or there are none left.

        Raises:
            Interrupted: The run was told to stop, and has stopped (or would not).
        """
        policy = run.operation.policy
        if not policy.retry_attempts:
            return await self._attempt(run, last=True)
        from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_exponential, wait_random

        retrying = AsyncRetrying(
            stop=stop_after_attempt(policy.retry_attempts + 1),
            wait=wait_exponential(multiplier=0.5, max=30) + wait_random(0, 0.5),
            retry=retry_if_result(partial(worth_retrying, context=run.context)),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
            sleep=run.sleep,
        )
        tries = 0

        async def attempt() -> Outcome:
            nonlocal tries
            tries += 1
            return await self._attempt(run, last=tries > policy.retry_attempts)

        return await retrying(attempt)

    async def _attempt(self, run: Execution, *, last: bool) -> Outcome:
        operation = run.operation
        code = driven(partial(_begun, operation, run), run.lease)
        run.body = body = asyncio.create_task(code, name=f"raincheck:{operation.operation_type}")
        run.start_timer(operation.policy.attempt_seconds)
        patience = _STUBBORN_SECONDS
        try:
            await run.until_stopped(body)
        except asyncio.CancelledError:
            # The event loop ends under us, without a shutdown of ours: give back what may run again.
            run.interrupt("shutdown")
            patience = 0.0
        reason = run.stop_reason
        overran = run.stop_timer() < 0
        if body.done() and not body.cancelled() and reason in (None, "timeout"):
            outcome = body.result()
            # A body that blocked the loop past its timeout comes back as if nothing were; the limit holds all the same.
            return failure(timed_out(operation, run.task_ref)) if overran and outcome.error is None else outcome
        assert reason is not None
        if reason in ("settled", "deadline") or (reason == "timeout" and last):
            # What it was is settled now; its end may take a little longer and is not waited for.
            await self._settle_then_end(run, body, reason)
        ended = await self._end(run, body)
        if reason in ("timeout", "shutdown"):
            # What starts next, here or elsewhere, must not work beside a thread of this attempt.
            ended = ended and await self._threads_returned(run, patience)
        if reason == "timeout" and not last and ended:
            return failure(timed_out(operation, run.task_ref))
        if reason == "shutdown" and not ended:
            # It still runs: the lease must run out before another worker may start it.
            raise Interrupted("lost")
        raise Interrupted(reason)

    async def _settle_then_end(self, run: Execution, body: asyncio.Task[Outcome], reason: Any) -> None:
        event = self._event_of(run, Interrupted(reason))
        run.cancel_body()
        if event is not None:
            await run.end_reports()
            try:
                await run.apply_with_retry(event)
            except Refused:
                logger.info("already settled by another", extra={"task_ref": run.task_ref})
        await self._end(run, body)
        raise Interrupted("settled")

    async def _end(self, run: Execution, body: asyncio.Task[Outcome]) -> bool:
        """Cancel the operation's own code; whether it ended within the grace."""
        run.context.mark_cancelled()
        run.cancel_body()
        done, _ = await asyncio.wait({body}, timeout=_STUBBORN_SECONDS)
        if not done:
            _still_runs(run, _STUBBORN_SECONDS)
        return bool(done)

    async def _threads_returned(self, run: Execution, seconds: float) -> bool:
        """Whether no thread works for the run any more, within so many seconds."""
        if not run.lease.threads:
            return True
        _, working = await asyncio.wait(run.lease.threads, timeout=seconds)
        if working:
            _still_runs(run, seconds)
        return not working


def _still_runs(run: Execution, seconds: float) -> None:
    logger.error(
        "an operation was told to stop and still runs after %g s",
        seconds,
        extra={"task_ref": run.task_ref, "operation": run.operation.operation_type},
    )


async def _begun(operation: Operation, run: Execution) -> Outcome:
    if monotonic() - run.asked > _FRESH_SECONDS:
        # Here, so that nothing comes between the answer and the first step.
        await run.look_again()
    if run.stop_reason is not None:
        # Told to stop before its first step.
        raise asyncio.CancelledError
    return await guarded(
        operation,
        run.task.arguments,
        run.context,
        first=partial(_before, run),
        stop_requested=lambda: run.stop_reason is not None,
    )


async def _before(run: Execution) -> None:
    """What comes before the operation's own code: what an earlier start handed over, and the questions to ask first."""
    if run.task.awaiting_external:
        await run.await_external()
    if run.operation.ask_first:
        await run.ask_first()
