"""A job on another server, followed to its end: asked, stopped, its result fetched, within rules and bounds.

Between two questions the task holds no place of its worker. The request's own headers, which may hold secrets, go to
the origin of the operation's `url` only; every other address is held against the guard on outgoing requests.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from raincheck.domain.redaction import redacted_texts, without
from raincheck.egress.client import EgressClient
from raincheck.egress.errors import RequestRefused
from raincheck.egress.policy import EgressPolicy, HostRule, Target
from raincheck.errors import ConfigurationError, UpstreamError
from raincheck.operations.context import TaskContext
from raincheck.operations.http.client import Reply, exchange
from raincheck.operations.http.job_api import AddressTemplate, JobStatus, PollSettings, UpstreamApi
from raincheck.operations.http.request import PreparedRequest, RequestTemplate
from raincheck.operations.validation_messages import capped

_AT_ONCE = 64
_BACKOFF = 1.5
_MOST_RIDDLES = 5
_LONGEST_REASON = 500


class JobFollower:
    """Asks, stops and fetches, for one operation.

    Args:
        request: The operation's own request.
        client: Its connections.
        table: How often to ask, and where else to; the defaults for an API of the other way.
        max_response_bytes: The largest answer.

    Raises:
        ConfigurationError: An allowed host is none.
    """

    def __init__(
        self,
        operation_type: str,
        request: RequestTemplate,
        client: EgressClient,
        table: PollSettings,
        *,
        max_response_bytes: int,
    ) -> None:
        self._request = request
        self._client = client
        self._table = table
        try:
            allowed = [HostRule.parse(each) for each in table.allow]
        except ValueError as error:
            raise ConfigurationError(f"operation {operation_type!r}: poll.allow: {error}") from None
        self._guarded = EgressClient(
            EgressPolicy(trusted=allowed),
            total_seconds=table.request_timeout_seconds,
            max_body_bytes=max_response_bytes,
        )
        self._places: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    async def to_the_end(
        self, api: UpstreamApi, job: Mapping[str, Any], arguments: Mapping[str, Any], context: TaskContext
    ) -> Any:
        """The job's result, once it is done.

        Raises:
            UpstreamError: It failed, or is not there any more.
        """
        url = self._request.prepare(arguments).url
        status_url = api.status_url(job, url, arguments)
        async with context.idle():
            verdict = await self._ended(api, job, status_url, arguments, context)
        await context.backend.external_completed()
        if verdict.state == "failed":
            told = f": {self._reason(verdict.error)}" if verdict.error else ""
            raise UpstreamError(
                f"the upstream job at {self._request.host} ended as {verdict.shown or 'failed'}{told}",
                details={"state": verdict.shown},
            )
        if verdict.result_url is None:
            return verdict.result
        return await self._fetched(verdict.result_url, arguments, context)

    async def stop(self, cancel: AddressTemplate, cleanup: Mapping[str, Any]) -> None:
        """Make the cancel call; a job that is not there any more, or over, is stopped.

        Raises:
            UpstreamError: It was not taken.
        """
        arguments: Mapping[str, Any] = cleanup["arguments"]
        url = cancel.address({**arguments, **cleanup["values"]}, self._request.base_url(arguments))
        reply = await self._ask(self._table.cancel_method, url, arguments)
        if reply.status >= 300 and reply.status not in (404, 409, 410):
            raise reply.refusal(self._request.secrets)

    async def _ended(
        self,
        api: UpstreamApi,
        job: Mapping[str, Any],
        status_url: str,
        arguments: Mapping[str, Any],
        context: TaskContext,
    ) -> JobStatus:
        pause = self._table.interval_seconds
        first = job.get("first_seconds")
        if context.attempt > 1:
            # A worker that takes up thousands of them again asks for none at once.
            first = pause * random.random()  # noqa: S311  no secret
        await asyncio.sleep(pause if first is None else first)
        told: tuple[str, float | None] | None = None
        riddles = 0
        while True:
            asked_to_wait: float | None = None
            try:
                reply = await self._ask("GET", status_url, arguments)
                asked_to_wait = reply.retry_after
                self._check(reply)
                verdict = api.verdict(reply, job, status_url)
            except UpstreamError as error:
                asked_to_wait = error.details.get("retry_after_seconds", asked_to_wait)
                riddles = 0 if error.retryable else riddles + 1
                # A page of a proxy, say, with status 200: not worth the loss of hours of work at the first sight.
                if "status" in error.details or "refused" in error.details:
                    riddles = 0 if error.retryable else _MOST_RIDDLES
                if riddles >= _MOST_RIDDLES:
                    raise
            else:
                riddles = 0
                if verdict.state != "running":
                    return verdict
                if told != (told := (verdict.shown, verdict.progress)):
                    await context.progress(verdict.progress, verdict.shown or None)
            await asyncio.sleep(max(asked_to_wait or 0.0, pause * random.uniform(0.9, 1.1)))  # noqa: S311  no secret
            pause = min(pause * _BACKOFF, self._table.max_interval_seconds)

    async def _fetched(self, url: str, arguments: Mapping[str, Any], context: TaskContext) -> Any:
        pause = self._table.interval_seconds
        while True:
            try:
                reply = await self._ask("GET", url, arguments, bounded=False)
                self._check(reply)
                if reply.status >= 300:
                    raise UpstreamError(f"{reply.host} redirects from the result, which is not followed")
                return reply.value
            except UpstreamError as error:
                if not error.retryable:
                    raise
                wait = error.details.get("retry_after_seconds") or 0.0
            async with context.idle():
                await asyncio.sleep(max(wait, pause))
            pause = min(pause * _BACKOFF, self._table.max_interval_seconds)

    def _reason(self, error: str) -> str:
        # Cut first, what is left of a secret would not be found.
        return capped(without(error, {*self._request.secrets, *redacted_texts()}, "***"), _LONGEST_REASON)

    def _check(self, reply: Reply) -> None:
        if reply.status in (404, 410):
            raise UpstreamError(
                f"{reply.host} answered with status {reply.status}: it does not have the upstream job any more",
                details={"status": reply.status},
            )
        if reply.status >= 400:
            raise reply.refusal(self._request.secrets)
        if reply.status == 206:
            raise UpstreamError(f"{reply.host} sent a part of the body, which was not asked for")

    async def _ask(self, method: str, url: str, arguments: Mapping[str, Any], *, bounded: bool = True) -> Reply:
        try:
            target = Target.parse(url)
            async with self._place():
                if target.origin == self._request.origin:
                    return await self._ask_own(method, target, arguments, bounded=bounded)
                return await self._ask_other(method, url, target)
        except RequestRefused as error:
            raise UpstreamError(f"an address of the upstream job: {error.message}", details={"refused": True}) from None

    async def _ask_own(self, method: str, target: Target, arguments: Mapping[str, Any], *, bounded: bool) -> Reply:
        prepared = PreparedRequest(
            method=method,
            url=f"{target.origin}{target.path}",
            headers=self._request.own_headers(arguments),
            content=None,
        )
        host = self._request.host
        try:
            # A large result takes its time; the attempt's timer bounds it.
            async with asyncio.timeout(self._table.request_timeout_seconds if bounded else None):
                return await exchange(self._client, host, prepared, redirects=False)
        except TimeoutError:
            seconds = self._table.request_timeout_seconds
            raise UpstreamError(f"{host} did not answer within {seconds:g} s", retryable=True) from None

    async def _ask_other(self, method: str, url: str, target: Target) -> Reply:
        prepared = PreparedRequest(method=method, url=url, headers=(), content=None)
        return await exchange(self._guarded, target.origin.partition("://")[2], prepared, redirects=False)

    def _place(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if self._places is None or self._places[0] is not loop:
            self._places = loop, asyncio.Semaphore(_AT_ONCE)
        return self._places[1]
