"""Operations of kind http: a request to an HTTP API, its answer bounded, its failures told in one line."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from raincheck.domain.transitions import Refused
from raincheck.egress.client import EgressClient
from raincheck.errors import (
    ConfigurationError,
    OperationFailed,
    TaskFailure,
    UpstreamError,
)
from raincheck.operations.context import TaskContext
from raincheck.operations.http.body import BodyDeclaration
from raincheck.operations.http.caller_values import CallerValues
from raincheck.operations.http.client import Reply, exchange
from raincheck.operations.http.job_api import AcceptedJob, PollSettings, Table, UpstreamApi
from raincheck.operations.http.job_follower import JobFollower
from raincheck.operations.http.request import PreparedRequest, RequestDeclaration, RequestTemplate
from raincheck.operations.operation import Operation, Policy
from raincheck.operations.schema import ParameterSchema
from raincheck.operations.validation import still_fitting
from raincheck.operations.validation_messages import capped

AcceptedAnswers = Literal["auto", "follow", "result"]
Completion = Literal["answer", "callback"]

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_CALLBACK_NAMES = frozenset({"callback_url", "callback_token"})
# Below the time that a runner gives a cancelled operation.
_LAST_SECONDS = 8.0


def http_operation(
    operation_type: str,
    *,
    method: str,
    url: str,
    parameters: Mapping[str, Any],
    description: str,
    headers: Mapping[str, str] | None = None,
    body: Any = None,
    form: Mapping[str, str] | None = None,
    raw: bool = False,
    policy: Policy | None = None,
    title: str | None = None,
    max_response_bytes: int = 16 * 1024 * 1024,
    accepted: AcceptedAnswers = "auto",
    poll: PollSettings | None = None,
    completion: Completion = "answer",
    idempotency_header: str | None = None,
) -> Operation:
    """An operation that sends a request and gives the body of the answer: JSON where its type says so, else text.

    `{parameter}` in url, headers and body is replaced by its value, `${NAME}` by that environment variable, once, when
    the operation is declared. In the path and query a value is percent-encoded, so that it stays one component; scheme
    and host take no parameter. What uses an absent or null parameter is left out: the query pair, the header, the
    member or item of a JSON body (there, null stays null). A string in a JSON body that is exactly `"{parameter}"`
    becomes the value itself, of its own type.

    A value stays a value: the parts `.` and `..` are refused in a path, in whatever encoding. In a text body a value is
    encoded as the header `Content-Type` says: as a field of a form, as JSON (within quotes as text, elsewhere of its
    own type), for XML and HTML as text between tags or within quotes; in `text/plain` it stands as it is. Without that
    header a text that is JSON or a form (`a={x}&b=1`) is sent as such, any other as `text/plain`.

    Parameters that url, headers and body do not use go to the query for GET, DELETE, HEAD and OPTIONS; for other
    methods without a `body` they are the JSON body. `Idempotency-Key` is sent with methods that change something: it is
    `TaskContext.idempotency_key`, never the caller's own text.

    A status of 400 or more fails the task with `upstream_error` (`details`: `status`, `body_tail`), retryable for 408,
    425, 429 and 5xx, with `retry_after_seconds` where the server says so. So does a server that cannot be reached.
    Redirects are followed within the same origin only; cookies are not kept.

    `{caller.subject}`, `.scope`, `.issuer`, `.client_id`, `.client_name` and `.claims.NAME` stand for who called. In
    headers `{caller.token}` is its access token and `{caller.headers.NAME}` a header of its request, where the policy
    gives them to the operation; such a request follows no redirect.

    Where the API only takes the work on, the task follows it to its end without a place of its worker, and goes on with
    it after a lost worker (docs/upstream-jobs.md): by `poll`, by the address in a `202`, or until it is called back.

    Args:
        operation_type: Its name.
        method: GET, POST, PUT, PATCH, DELETE, HEAD or OPTIONS.
        url: The address.
        parameters: JSON Schema of the parameters, an object; unknown ones are refused unless it allows them.
        description: For the model that chooses tools.
        headers: The request's headers.
        body: None, text, or JSON (mapping, list).
        form: The fields of a form, in place of `body`; an array is one field for each item.
        raw: Values stand in a text body as they are.
        policy: How it is run and answered.
        title: A name for people.
        max_response_bytes: The bound on the answer's body, decoded.
        accepted: What a `202` is: "follow" (its `Operation-Location` or `Location` is asked for the end), "result" (an
            answer like any other) or "auto" (followed where there is `Operation-Location`, or `Location` and
            `Retry-After`).
        poll: How the state of a job is asked, by a table.
        completion: "callback": the request only hands the work over, with `{callback_url}` or `{callback_token}` in it.
        idempotency_header: The API does nothing twice that comes with the same value of this header: a request whose
            worker was lost is sent again with the same one, whatever `policy` says of lost workers.

    Raises:
        ConfigurationError: A placeholder that names no parameter or no variable, a parameter in the host, and the like.
        MissingDependency: The HTTP client is not installed.
    """
    executor = HttpExecutor(
        operation_type,
        RequestDeclaration(
            method=method,
            url=url,
            headers=headers or {},
            body=BodyDeclaration(body=body, form=form, raw=raw),
            idempotency_header=idempotency_header,
        ),
        parameters=parameters,
        max_response_bytes=max_response_bytes,
        accepted=accepted,
        poll=poll,
        completion=completion,
        policy=policy,
    )
    if policy is not None and policy.mode == "inline" and (poll is not None or completion == "callback"):
        raise ConfigurationError(
            f'operation {operation_type!r}: mode = "inline" has no task that could wait: use "auto" or "task"'
        )
    policy = policy or Policy()
    return Operation(
        operation_type=operation_type,
        description=description,
        executor=executor,
        policy=policy if idempotency_header is None else replace(policy, on_worker_lost="retry"),
        title=title,
    )


class HttpExecutor:
    """Sends the request, and follows what it began; see `http_operation`. `aclose` ends its connections."""

    def __init__(
        self,
        operation_type: str,
        declared: RequestDeclaration,
        *,
        parameters: Mapping[str, Any],
        max_response_bytes: int,
        accepted: AcceptedAnswers,
        poll: PollSettings | None,
        completion: Completion,
        policy: Policy | None,
    ) -> None:
        self._client = EgressClient(None, total_seconds=None, max_body_bytes=max_response_bytes)
        if declared.method.upper() not in _METHODS:
            raise ConfigurationError(
                f"operation {operation_type!r}: method = {capped(declared.method, 40)!r}; "
                f"allowed: {', '.join(_METHODS)}"
            )
        self._schema = ParameterSchema(parameters, operation_type)
        properties = self._schema.properties
        self._calls_back = completion == "callback"
        _check_completion(operation_type, properties, calls_back=self._calls_back, poll=poll)
        asked = [] if poll is None else [poll.status_url, poll.cancel_url]
        self._caller = CallerValues(
            operation_type,
            policy or Policy(),
            parameters=properties,
            headers=declared.headers,
            elsewhere=[declared.url, declared.body.body, declared.body.form, asked],
        )
        required: list[str] = list(self._schema.schema.get("required", ()))
        defaults = [name for name, part in properties.items() if isinstance(part, dict) and "default" in part]
        self._request = RequestTemplate(
            operation_type,
            declared,
            parameters=properties,
            always_present=frozenset(required + defaults),
            reserved=self._caller.names | (_CALLBACK_NAMES if self._calls_back else frozenset[str]()),
        )
        if self._calls_back and not self._request.used & _CALLBACK_NAMES:
            raise ConfigurationError(
                f'operation {operation_type!r}: completion = "callback" needs {{callback_url}} or {{callback_token}} '
                "in url, headers or body: nobody could call back"
            )
        self._dedupes = declared.idempotency_header is not None
        names = {**properties, **dict.fromkeys(self._caller.names)}
        self._table = None if poll is None else Table(poll, operation_type=operation_type, parameters=names)
        self._accepted = None if accepted == "result" else AcceptedJob(always=accepted == "follow")
        # What is begun for certain is seen to its begin, also where the task is told to stop meanwhile.
        self._always_begins = self._calls_back or self._table is not None or accepted == "follow"
        self._follower = JobFollower(
            operation_type,
            self._request,
            self._client,
            poll or PollSettings(status_url="", state="$", done=(), failed=()),
            max_response_bytes=max_response_bytes,
        )

    @property
    def parameters_schema(self) -> Mapping[str, Any]:
        """See `Executor`."""
        return self._schema.schema

    @property
    def needs_public_url(self) -> bool:
        """Whether its request holds an address at which this server is called back."""
        return "callback_url" in self._request.used and self._calls_back

    @property
    def leaves_work(self) -> bool:
        """See `CancelsUpstream`."""
        return self._table is not None and self._table.cancel is not None

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Executor`."""
        stored = self._schema.validate(arguments)
        given = self._caller.names | (_CALLBACK_NAMES if self._calls_back else frozenset[str]())
        self._request.prepare({**stored, **dict.fromkeys(given, "-")})
        return stored

    async def aclose(self) -> None:
        """Close the connections. The next request opens new ones."""
        await self._client.aclose()

    async def stop_outside(self, cleanup: Mapping[str, Any]) -> None:
        """See `CancelsUpstream`."""
        if self._table is not None and self._table.cancel is not None:
            await self._follower.stop(self._table.cancel, cleanup)

    async def run(self, arguments: Mapping[str, Any], context: TaskContext) -> Any:
        """See `Executor`."""
        try:
            saved = context.checkpoint
            if isinstance(saved, Mapping) and "job" in saved:
                return await self._followed(saved["job"], arguments, context)  # pyright: ignore[reportUnknownArgumentType]
            begun = await self._begun(arguments, context)
            if isinstance(begun, Reply):
                return begun.value
            if self._calls_back:
                await context.await_external()
            return await self._followed(begun, arguments, context)
        except asyncio.CancelledError:
            context.mark_cancelled()
            raise

    async def _followed(self, job: Mapping[str, Any], arguments: Mapping[str, Any], context: TaskContext) -> Any:
        api: UpstreamApi | None = self._table if job.get("by") == "table" else self._accepted
        if api is None:
            raise OperationFailed("an upstream job is under way, and the operation as it is now does not follow it")
        return await self._follower.to_the_end(api, job, self._with_caller(arguments, context), context)

    async def _begun(self, arguments: Mapping[str, Any], context: TaskContext) -> Reply | Mapping[str, Any]:
        if not (self._always_begins and context.fence):
            return await self._begin(arguments, context)
        beginning = asyncio.create_task(self._begin(arguments, context))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            # Broken off now, it may have begun all the same and its id would be unknown.
            await asyncio.wait({beginning}, timeout=_LAST_SECONDS)
            beginning.cancel()
            await asyncio.gather(beginning, return_exceptions=True)
            raise

    async def _begin(self, arguments: Mapping[str, Any], context: TaskContext) -> Reply | Mapping[str, Any]:
        """Send the request: its answer, or what is known of the job that it began, once that is durable."""
        prepared, secrets = await self._prepared(arguments, context)
        arguments, host = self._with_caller(arguments, context), self._request.host
        reply = await exchange(self._client, host, prepared, redirects=not self._caller.secret)
        if reply.status >= 400:
            raise reply.refusal(self._request.secrets | secrets)
        if self._caller.secret and reply.status >= 300:
            raise UpstreamError(
                f"{host} redirects, which a request with its caller's token does not follow",
                details={"status": reply.status},
            )
        if self._calls_back:
            await context.backend.hand_over()
            return {}
        job = None
        if context.fence:
            api = self._table or self._accepted
            job = None if api is None else api.started(reply, prepared.url, arguments)
        if job is None:
            return reply
        if reply.retry_after is not None:
            job["first_seconds"] = reply.retry_after
        await self._save(job, arguments, context)
        return job

    async def _save(self, job: Mapping[str, Any], arguments: Mapping[str, Any], context: TaskContext) -> None:
        cleanup: dict[str, Any] | None = None
        if self._table is not None and self._table.cancel is not None:
            names = self._request.base_names | self._table.cancel.parameters
            kept = {name: arguments[name] for name in names if name in arguments}
            cleanup = {"values": job["values"], "arguments": kept}
        try:
            await context.save({"job": job}, cleanup=cleanup)
        except Refused as refused:
            # The task ended, or went to another worker, while its request was under way. Where the API dedupes, that
            # worker follows this very job.
            if cleanup is not None and (refused.task.terminal or not self._dedupes):
                await self._stopped(cleanup)
            raise

    async def _stopped(self, cleanup: Mapping[str, Any]) -> None:
        try:
            await self.stop_outside(cleanup)
        except TaskFailure as error:
            raise UpstreamError(f"an upstream job could not be cancelled: {error.message}") from None

    def _with_caller(self, arguments: Mapping[str, Any], context: TaskContext) -> Mapping[str, Any]:
        return {**arguments, **self._caller.of(context.caller)}

    async def _prepared(
        self, arguments: Mapping[str, Any], context: TaskContext
    ) -> tuple[PreparedRequest, frozenset[str]]:
        given: dict[str, Any] = {}
        caller = self._caller.of(context.caller)
        if self._calls_back:
            token = await context.callback_token()
            given = {"callback_token": token}
            if self.needs_public_url:
                given["callback_url"] = await context.callback_url()
        # Another scope's task must not pass for this one at the API, and two tasks of one key in time neither.
        key = context.task_ref if self._dedupes else context.idempotency_key
        request = await still_fitting(
            lambda stored: self._request.prepare({**self._schema.validate(stored), **caller, **given}, key), arguments
        )
        return request, frozenset(given.values())


def _check_completion(
    operation_type: str, parameters: Mapping[str, Any], *, calls_back: bool, poll: PollSettings | None
) -> None:
    place = f"operation {operation_type!r}"
    taken = sorted(_CALLBACK_NAMES & parameters.keys())
    if calls_back and taken:
        raise ConfigurationError(f'{place}: a parameter must not be named {taken[0]!r} with completion = "callback"')
    if calls_back and poll is not None:
        raise ConfigurationError(f'{place}: completion = "callback" and the table poll exclude each other')
