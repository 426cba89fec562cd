"""The registry: submits tasks, cancels them, answers their questions, for callers with their scopes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NamedTuple

from raincheck.domain.caller import Caller
from raincheck.domain.redaction import wrap_secrets
from raincheck.domain.task import PRINCIPAL, InputRequest, KeyKind, Task, new_task_ref
from raincheck.domain.transitions import Cancel, Event, ProvideInput, Refused
from raincheck.errors import (
    CircuitOpen,
    IdempotencyConflict,
    InvalidParameters,
    QueueFull,
    StoreUnavailable,
    UnknownOperation,
)
from raincheck.limits.limiter import InRequest, Limiter
from raincheck.operations.callers import check_encrypted, check_may_call, given, may_call
from raincheck.operations.catalog import OperationCatalog
from raincheck.operations.operation import AnswerBy, Operation
from raincheck.operations.validation import ParameterChecks
from raincheck.ports.engine import Engine
from raincheck.ports.task_store import Inserted, PendingLimit, TaskStore
from raincheck.tasks import task_log
from raincheck.tasks.call_identity import check_key, checked_wait, fingerprint_of, is_another_call
from raincheck.tasks.lost_answers import LostAnswers, told
from raincheck.tasks.views import Operator, TaskViews
from raincheck.tasks.watch import ChangeNotifier
from raincheck.tasks.writer import TaskWriter

_ANY_NUMBER = PendingLimit()


def refuse_callbacks(url: str) -> str:
    """Where no caller may name one.

    Raises:
        InvalidParameters: Always.
    """
    raise InvalidParameters(
        "This server calls nobody back: no host is allowed for callback_url. Leave it out and use resolve_task_status."
    )


class Submission(NamedTuple):
    """An accepted call: its task, and whether it was there before under the same idempotency key."""

    task: Task
    deduplicated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class AcceptanceRules:
    """Which calls are accepted.

    Attributes:
        max_parameters_bytes: The largest parameters, as JSON.
        pending_limit: How many tasks may be pending.
        pending_limit_of_principal: The same for callers who authenticate; None: no other.
        check_callback_url: Checks a caller's `callback_url`; by default none is taken.
    """

    max_parameters_bytes: int = 1024 * 1024
    pending_limit: PendingLimit = _ANY_NUMBER
    pending_limit_of_principal: PendingLimit | None = None
    check_callback_url: Callable[[str], str] = refuse_callbacks

    def pending_limit_of(self, scope: str) -> PendingLimit | None:
        """How many tasks may be pending where one of this scope comes in; None: any number."""
        principal = self.pending_limit_of_principal is not None and scope.startswith(PRINCIPAL)
        limit = self.pending_limit_of_principal if principal else self.pending_limit
        return None if limit == _ANY_NUMBER else limit


class Registry(TaskViews):
    """The task registry as callers use it: what they see (`TaskViews`), and what they change.

    Args:
        store: The open store.
        operations: The operations of this process.
        writer: Writes cancels and answers, by whose clock tasks are accepted.
        rules: Which calls are accepted.
        engine: Told of each new task; None where this process only looks after tasks.
        changes: Where waits hear of changes; None where no call waits.
        limiter: The breakers and permits of operations; None where no call is submitted.
        worker_gone: Whether the process of the worker of that name is known to be dead.
    """

    def __init__(
        self,
        store: TaskStore,
        operations: OperationCatalog,
        writer: TaskWriter,
        *,
        engine: Engine | None = None,
        changes: ChangeNotifier | None = None,
        rules: AcceptanceRules | None = None,
        limiter: Limiter | None = None,
        worker_gone: Callable[[str | None], bool] = lambda worker_id: False,
    ) -> None:
        super().__init__(store, changes, clock=writer.clock, worker_gone=worker_gone)
        self._rules = rules = rules or AcceptanceRules()
        self._operations = operations
        self._engine = engine
        self._checks = ParameterChecks(rules.max_parameters_bytes)
        self._limiter = limiter
        self._writer = writer
        self._lost_answers = LostAnswers(store, self._writer)

    def operation(self, operation_type: str, *, caller: Caller | None = None) -> Operation:
        """The operation of that name; with a caller, one that it may call.

        Raises:
            UnknownOperation: There is none, and the message names those that are; or the caller may not call it.
        """
        operation = self._operations.get(operation_type)
        if operation is not None and caller is not None:
            check_may_call(operation_type, operation.policy, caller)
        if operation is None:
            known = sorted(name for name in self._operations if caller is None or self.may_call(name, caller))
            raise UnknownOperation(
                f"There is no operation {operation_type[:80]!r}. Known: {', '.join(known) or 'none'}.",
                details={"known": known},
            )
        return operation

    def may_call(self, operation_type: str, caller: Caller) -> bool:
        """Whether there is an operation of that name that the caller may call."""
        operation = self._operations.get(operation_type)
        return operation is not None and may_call(operation.policy, caller)

    async def submit(
        self,
        operation_type: str,
        arguments: Mapping[str, Any],
        *,
        scope: str,
        max_wait_seconds: float | None = None,
        idempotency_key: str | None = None,
        ttl_seconds: float | None = None,
        inputs: tuple[InputRequest, ...] = (),
        callback_url: str | None = None,
        tool_use: str | None = None,
        caller: Caller | None = None,
    ) -> Submission:
        """Accept a call: when this returns, its task is durable.

        Args:
            operation_type: The operation.
            arguments: Its parameters, a JSON object.
            scope: Whose task it is.
            max_wait_seconds: The deadline from now; the operation's default where None.
            idempotency_key: One key, one task, within the scope and the task's retention. Without one, equal calls of
                an operation with `dedupe = "inflight"` share the task that is under way.
            ttl_seconds: The retention the caller wishes, bounded by the operation's; None is the operation's.
            inputs: Questions that were asked and answered before the task (`Operation.ask_first`).
            callback_url: Where its end is to be told, beside the operation's own webhook.
            tool_use: A digest of the host's id of a tool use, for a call without an `idempotency_key`: the same for one
                that is sent again. With other parameters it counts for nothing: then the host gives an id to several.
            caller: Who calls, of that scope; None: nothing more is known.

        Raises:
            CallError: Nothing was written.
            StoreError: Nothing was written, unless it says `maybe_done`: then the same key finds the task, and what has
                no key is cancelled when the store is back.
        """
        caller = caller or Caller(scope=scope)
        operation = self.operation(operation_type, caller=caller)
        policy = operation.policy
        caller = self._kept(operation, caller)
        wait = checked_wait(max_wait_seconds, policy.max_wait_ceiling_seconds)
        check_key(idempotency_key)
        callback = None if callback_url is None else self._rules.check_callback_url(callback_url)
        inputs = self._checks.answered(inputs)
        checked = await self.checked(operation, arguments, scope=scope)
        shared = idempotency_key or tool_use or policy.dedupe == "inflight"
        inflight = idempotency_key is None and policy.dedupe == "inflight"
        fingerprint = fingerprint_of(operation, checked, callback, caller if inflight else None) if shared else ""
        own_key, kind = idempotency_key, KeyKind.CALLER
        if fingerprint and own_key is None:
            kind = KeyKind.INFLIGHT if inflight else KeyKind.TOOL_USE
            idempotency_key = fingerprint if inflight else tool_use
        now = self._clock()
        task = Task(
            task_ref=new_task_ref(),
            scope=scope,
            operation_type=operation_type,
            arguments=wrap_secrets(checked, operation.secret_parameters),
            created_at=now,
            updated_at=now,
            deadline_at=now + timedelta(seconds=wait or policy.default_max_wait_seconds),
            ttl_seconds=policy.ttl_seconds if ttl_seconds is None else min(ttl_seconds, policy.ttl_seconds),
            max_attempts=policy.max_attempts,
            retry_when_lost=policy.on_worker_lost == "retry",
            idempotency_key=idempotency_key,
            key_kind=kind,
            fingerprint=fingerprint,
            priority=policy.priority,
            inputs=inputs,
            callback_url=callback,
            own_webhook=policy.webhook is not None,
            caller=None if caller == Caller(scope=scope) else caller,
        )
        stored, created = await self._inserted(operation, task, keyed=own_key is not None)
        if not created and own_key is None and is_another_call(stored, task):
            unkeyed = replace(task, idempotency_key=None, fingerprint="")
            stored, created = await self._inserted(operation, unkeyed, keyed=False)
        if created:
            task_log.accepted(stored)
            if self._engine is not None:
                await self._engine.deliver(stored)
        elif stored.fingerprint != task.fingerprint:
            raise IdempotencyConflict(
                "This idempotency_key was used before for another operation or with other parameters. "
                "Use a new key for a new piece of work."
            )
        return Submission(stored if created else self.shown(stored), not created)

    def _kept(self, operation: Operation, caller: Caller) -> Caller:
        kept = given(operation.policy, caller)
        if kept.credentials is not None:
            check_encrypted(operation.operation_type, operation.policy, encrypts=self._store.capabilities.encrypts)
        return kept

    async def call_of(self, task_ref: str, operation_type: str, arguments: Mapping[str, Any], *, scope: str) -> Task:
        """The task that this very call was given before.

        Raises:
            TaskNotFound: As in `get`.
            InvalidParameters: It is the task of another operation, or of other parameters.
        """
        operation, task = self.operation(operation_type), await self.get(task_ref, scope=scope)
        if task.operation_type != operation_type or task.arguments != wrap_secrets(
            await self.checked(operation, arguments, scope=scope), operation.secret_parameters
        ):
            raise InvalidParameters("The answers belong to another call: the operation or its parameters differ.")
        return task

    async def checked(self, operation: Operation, arguments: Mapping[str, Any], *, scope: str) -> dict[str, Any]:
        """The arguments as they are to be stored, checked within the bounds of `ParameterChecks`.

        Raises:
            InvalidParameters, PayloadTooLarge: They do not fit, or are too many.
        """
        return await self._checks.checked(operation, arguments, scope=scope)

    def answer_by(self, operation_type: str) -> AnswerBy:
        """Who may answer the operation's questions; anyone, where it is not known any more."""
        operation = self._operations.get(operation_type)
        return "anyone" if operation is None else operation.policy.answer_by

    async def _inserted(self, operation: Operation, task: Task, *, keyed: bool) -> Inserted:
        try:
            inserted = await self._insert(operation, task)
        except StoreUnavailable as error:
            return Inserted(await self._lost_answers.task_or_refusal(task, error, keyed=keyed), created=True)
        if not inserted.created:
            self._lost_answers.wanted(inserted.task.task_ref)
        return inserted

    async def _insert(self, operation: Operation, task: Task) -> Inserted:
        pending_limit = self._rules.pending_limit_of(task.scope)
        if operation.policy.breaker is None or self._limiter is None:
            return await self._store.insert(task, pending_limit=pending_limit)
        try:
            probe = await self._limiter.admit(operation, task)
        except StoreUnavailable as error:
            # Whatever became of the breaker's record, no task was sent.
            error.maybe_done = False
            raise
        except CircuitOpen as refused:
            return await self._insert_refused(task, refused)
        try:
            inserted = await self._store.insert(task, pending_limit=pending_limit)
        except BaseException:
            if probe:
                self._limiter.withdraw(operation, task)
            raise
        if probe and not inserted.created:
            self._limiter.withdraw(operation, task)
        return inserted

    async def _insert_refused(self, task: Task, refused: CircuitOpen) -> Inserted:
        """What an open breaker answers: a call that was accepted before still gets its task."""
        if task.idempotency_key is None:
            raise refused
        try:
            return await self._store.insert(task, pending_limit=PendingLimit(total=0))
        except QueueFull:
            raise refused from None

    def inline_slot(self, operation: Operation, *, scope: str) -> AbstractAsyncContextManager[InRequest]:
        """Around a call that runs in its request, without a task.

        Raises:
            CircuitOpen, QueueFull, RateLimited: The limits of the operation or the scope do not allow it now.
            StoreError: They cannot be asked.
        """
        assert self._limiter is not None, "calls run where tasks are accepted"
        return self._limiter.inline_slot(operation, scope=scope)

    async def stop(self) -> None:
        """Look no more for tasks whose answers were lost."""
        await self._lost_answers.stop()

    async def cancel(self, task_ref: str, *, scope: str | Operator) -> Task:
        """Cancel the task; a terminal one stays as it is. The worker hears of it and stops.

        Raises:
            TaskNotFound: As in `get`.
        """
        return await self._apply(task_ref, scope, Cancel())

    async def provide_input(
        self, task_ref: str, responses: Mapping[str, Mapping[str, Any]], *, scope: str | Operator
    ) -> Task:
        """Answer a task's questions. Unknown and answered keys are ignored; a task that asks nothing stays as it is.

        Raises:
            TaskNotFound: As in `get`.
            InvalidParameters: An answer is none to its question; nothing was written.
            PayloadTooLarge: They are larger than parameters may be.
        """
        task = await self.stored(task_ref, scope)
        answers = self._checks.answers(task.outstanding, responses)
        return self.shown(await self._apply(task_ref, scope, ProvideInput(responses=answers)))

    async def _apply(self, task_ref: str, scope: str | Operator, event: Event) -> Task:
        async def read() -> Task:
            return await self.stored(task_ref, scope)

        task = await read()
        try:
            return await self._writer.apply(task, event, read) or task
        except Refused as refused:
            return refused.task
        except StoreUnavailable as error:
            raise told(error, "It may have been done all the same: the call may be repeated.") from error
