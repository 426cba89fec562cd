"""The operation: its declaration, its policy, and the port that its kinds implement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from raincheck.domain.redaction import secret_properties
from raincheck.domain.task import Outcome
from raincheck.operations.callers import check_callers
from raincheck.operations.context import TaskContext
from raincheck.operations.limit_policy import BreakerPolicy, check_choice, check_limits
from raincheck.operations.webhook import Webhook

Mode = Literal["inline", "auto", "task"]
WithoutTasks = Literal["ticket", "wait", "refuse"]
LostPolicy = Literal["fail", "retry"]
Dedupe = Literal["keys", "inflight"]
AnswerBy = Literal["user", "anyone"]
InlineWait = float | Literal["auto"]
Isolation = Literal["none", "process"]

INLINE_WAIT_SECONDS = 2.0
"""How long a call waits for its result where nothing is known of the operation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How an operation is run and answered (docs/configuration.md explains each).

    Attributes:
        mode: "inline" (in the request, no task), "auto" (the result if it is there within `inline_wait_seconds`, else
            a ticket) or "task" (always a ticket).
        inline_wait_seconds: How long `auto` waits; "auto": as long as pays (`raincheck.polling.inline_wait`).
        without_tasks: What a typed tool gives a client that declares no task surface: "ticket", "wait" or "refuse".
        timeout_seconds: The bound on one attempt's run; None: where it is declared, `default_timeout_seconds` of
            [execution], and of a tool that `tools=` names none: its deadline ends it.
        default_max_wait_seconds: The deadline, from acceptance, where the caller names none.
        max_wait_ceiling_seconds: The longest deadline that a caller may ask for.
        ttl_seconds: Retention, from settling.
        on_worker_lost: "fail" or "retry", when the worker that ran it is lost.
        dedupe: "keys": one task for one idempotency key; "inflight": besides, calls without a key that are equal to one
            under way (same scope, same parameters) get its task.
        max_attempts: Starts after which a task that loses its workers is given up.
        retry_attempts: How often a failed attempt is run again, with backoff, within the same claim.
        max_result_bytes: The largest result, as JSON.
        max_inline_bytes: From this size on callers are shown a preview and a link in place of the result; at most
            1 MiB.
        priority: Of the pending tasks those with a higher one start first; from -100 to 100.
        max_running: How many of its tasks run at once, in all processes on the store together; 0: any number.
        starts_per_minute: How many of its tasks start in a minute, in all processes together; 0: any number.
        start_burst: How many may start at once after a pause.
        breaker: When calls are refused because too many failed; None: never.
        secrets: Names of parameters, and of members of the result, that are secret: shown to the caller alone. Besides,
            what the schemas mark with `"writeOnly": true` (pydantic's `SecretStr`) is.
        webhook: Where every end of its tasks is reported, beside a caller's `callback_url`; None: nowhere.
        callers: The scopes that may call it, `*` for any text in one; empty: every one.
        required_scopes: The OAuth scopes that a caller's token must have, all of them; the local user needs none.
        caller_claims: Claims of the caller's token that are kept with the task (`Caller.claims`).
        caller_token: Whether the operation gets the caller's token; it is stored sealed.
        forward_headers: Headers of the caller's HTTP request that the operation gets; stored sealed too.
        answer_by: Who may answer its questions: "anyone", or the "user" alone, asked by the host and never by a model.

    Raises:
        ConfigurationError: A member is none of its words or out of its bounds.
    """

    mode: Mode = "auto"
    inline_wait_seconds: InlineWait = "auto"
    without_tasks: WithoutTasks = "ticket"
    timeout_seconds: float | None = None
    default_max_wait_seconds: float = 3600.0
    max_wait_ceiling_seconds: float = 86400.0
    ttl_seconds: float = 86400.0
    on_worker_lost: LostPolicy = "fail"
    dedupe: Dedupe = "keys"
    max_attempts: int = 3
    retry_attempts: int = 0
    max_result_bytes: int = 16 * 1024 * 1024
    max_inline_bytes: int = 64 * 1024
    priority: int = 0
    max_running: int = 0
    starts_per_minute: float = 0.0
    start_burst: int = 1
    breaker: BreakerPolicy | None = None
    secrets: tuple[str, ...] = ()
    webhook: Webhook | None = None
    answer_by: AnswerBy = "anyone"
    callers: tuple[str, ...] = ()
    required_scopes: tuple[str, ...] = ()
    caller_claims: tuple[str, ...] = ()
    caller_token: bool = False
    forward_headers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, get_args(Mode))
        check_choice("without_tasks", self.without_tasks, get_args(WithoutTasks))
        check_choice("on_worker_lost", self.on_worker_lost, get_args(LostPolicy))
        check_choice("dedupe", self.dedupe, get_args(Dedupe))
        check_choice("answer_by", self.answer_by, get_args(AnswerBy))
        check_limits(self)
        check_callers(
            callers=self.callers,
            required_scopes=self.required_scopes,
            caller_claims=self.caller_claims,
            forward_headers=self.forward_headers,
        )

    @property
    def limited(self) -> bool:
        """Whether a start needs a permit."""
        return self.max_running > 0 or self.starts_per_minute > 0

    @property
    def attempt_seconds(self) -> float:
        """How long one attempt may run: without a timeout as long as a deadline may be, that of its task or its own."""
        if self.timeout_seconds is not None:
            return self.timeout_seconds
        return self.default_max_wait_seconds if self.mode == "inline" else self.longest_wait_seconds

    @property
    def longest_wait_seconds(self) -> float:
        """The longest deadline that a task may have: the ceiling bounds what callers ask for, not its own."""
        return max(self.default_max_wait_seconds, self.max_wait_ceiling_seconds)

    @property
    def permit_wait_seconds(self) -> float:
        """How long a call without a task waits for its permit."""
        return INLINE_WAIT_SECONDS if self.inline_wait_seconds == "auto" else self.inline_wait_seconds


class Executor(Protocol):
    """The kind-specific half of an operation: checks its parameters and runs it.

    One that starts work on other servers may also have `CancelsUpstream`, one that holds connections `aclose`.
    """

    @property
    def parameters_schema(self) -> Mapping[str, Any]:
        """JSON Schema (2020-12) of the parameters: an object schema."""
        ...

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as they are to be stored: JSON values, checked, before a ticket is given.

        Raises:
            InvalidParameters: They do not fit; the message names the parameter and what is allowed.
        """
        ...

    async def run(self, arguments: Mapping[str, Any], context: TaskContext) -> Any:
        """Run one attempt and return its value: anything JSON-serialisable, or an `Outcome` to settle as it is.

        Cancelling the coroutine is the order to stop: the executor ends what it started (process group, child
        process, request) before it lets the `CancelledError` through. The runner bounds the time.

        Raises:
            TaskFailure: The attempt failed; `code`, `message`, `retryable` and `details` are for the caller.
            FailedAs: It failed with that very outcome.
            Exception: The operation's own error: `operation_failed` with the exception's text.
        """
        ...


class FailedAs(Exception):
    """The attempt failed with that outcome; the `__cause__` is what the operation's code raised, for the log.

    Attributes:
        outcome: A failed one.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error.message if outcome.error else "")
        self.outcome = outcome


@runtime_checkable
class CancelsUpstream(Protocol):
    """An executor whose tasks leave work outside that is to be stopped with them (`cleanup` of `TaskContext.save`)."""

    @property
    def leaves_work(self) -> bool:
        """Whether this one's tasks ever do."""
        ...

    async def stop_outside(self, cleanup: Mapping[str, Any]) -> None:
        """Stop that work; bounded in time. Called again after a failure, and may be called twice.

        Raises:
            TaskFailure: It could not be done; where `retryable`, trying again may help.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """Something that can be run as a task.

    Attributes:
        operation_type: Its name, and that of its typed tool.
        description: One or two sentences for the model that chooses tools.
        executor: The kind-specific half.
        policy: How it is run and answered.
        title: A name for people.
        output_schema: JSON Schema of the value, where known.
        ask_first: Questions to the caller's user before the work, by name: the params of `elicitation/create`. A client
            that can is asked before there is a task, every other one inside it; see `TaskContext.answers`.
        harmless_twice: Its tool says that it may be called twice without harm (MCP's `readOnlyHint`, `idempotentHint`).
        secret_parameters, secret_results: Which of its parameters, and members of its result, are secret.
    """

    operation_type: str
    description: str
    executor: Executor
    policy: Policy = field(default_factory=Policy)
    title: str | None = None
    output_schema: Mapping[str, Any] | None = None
    ask_first: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    harmless_twice: bool = False
    secret_parameters: frozenset[str] = field(init=False, default=frozenset())
    secret_results: frozenset[str] = field(init=False, default=frozenset())

    def __post_init__(self) -> None:
        named = frozenset(self.policy.secrets)
        own = {
            "secret_parameters": named | secret_properties(self.executor.parameters_schema),
            "secret_results": named | secret_properties(self.output_schema),
        }
        for name, value in own.items():
            object.__setattr__(self, name, value)

    @property
    def repeatable(self) -> bool:
        """Whether running it twice is declared harmless: its errors then invite to call again."""
        return self.harmless_twice or self.policy.on_worker_lost == "retry" or self.policy.retry_attempts > 0
