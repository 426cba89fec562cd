"""Jobs of other servers' APIs, followed by operations of kind http on a running service."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from operations.http_server import Received, answer, serving
from upstream.upstream_api import JobApi, job_api

from raincheck.domain.task import Progress, Task, TaskStatus
from raincheck.operations.http.executor import http_operation
from raincheck.operations.http.job_api import PollSettings
from raincheck.operations.operation import Policy
from raincheck.ports.records import RecordQuery
from raincheck.runtime.service import Service
from support.lab import Lab
from support.waiting import PATIENCE

PARAMETERS = {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}
TABLE: dict[str, Any] = {
    "status_url": "{$.links.self}",
    "state": "$.state",
    "done": ("done",),
    "failed": ("broken",),
    "running": ("busy",),
    "progress": "$.percent",
    "error": "$.why",
    "interval_seconds": 0.05,
    "max_interval_seconds": 0.1,
    "request_timeout_seconds": 1.0,
}


@pytest.fixture
async def api() -> AsyncIterator[JobApi]:
    async with job_api() as api:
        yield api


def declare(lab: Lab, api: JobApi, *, policy: Mapping[str, Any] | None = None, **options: Any) -> None:
    table = {key: options.pop(key) for key in list(options) if key in PollSettings.__dataclass_fields__}
    given: dict[str, Any] = {"mode": "task", **(policy or {})}
    declared: dict[str, Any] = {
        "method": "POST",
        "url": f"{api.url}/jobs?topic={{topic}}",
        "headers": {"Authorization": "Bearer hush-hush"},
        "parameters": PARAMETERS,
        "description": "Build a report.",
        "poll": PollSettings(**{**TABLE, **table}),
        "policy": Policy(**given),
        **options,
    }
    lab.operations["report"] = http_operation("report", **declared)


async def submit(service: Service, **options: Any) -> str:
    return (await service.registry.submit("report", {"topic": "x"}, scope="a", **options)).task.task_ref


async def settled(service: Service, task_ref: str) -> Task:
    task = await service.registry.wait(task_ref, scope="a", seconds=PATIENCE)
    assert task.terminal
    return task


async def end_of(lab: Lab, **options: Any) -> Task:
    async with lab.service(**options) as service:
        return await settled(service, await submit(service))


def error_of(task: Task) -> str:
    assert task.outcome is not None
    assert task.outcome.error is not None, task.outcome
    return task.outcome.error.message


async def wait_for(condition: Any, seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_result_in_the_state_is_the_tasks(lab: Lab, api: JobApi) -> None:
    declare(lab, api, result="$.value")
    task = await end_of(lab)
    assert task.outcome is not None
    assert task.outcome.value == {"report": "j1"}
    assert task.progress == Progress(fraction=1.0)
    assert [(each.method, each.target) for each in api.received] == [
        ("POST", "/jobs?topic=x"),
        *[("GET", "/jobs/j1")] * 3,
    ]
    assert {each.headers["authorization"] for each in api.received} == {"Bearer hush-hush"}


async def test_the_result_may_be_fetched_from_an_address(lab: Lab, api: JobApi) -> None:
    declare(lab, api, status_url="/jobs/{$.id}", result_url="{$.links.result}", running=())
    task = await end_of(lab)
    assert task.outcome is not None
    assert task.outcome.value == {"report": "j1"}
    assert api.received[-1].target == "/results/j1"


async def test_a_failed_job_fails_the_task_and_is_not_begun_again(lab: Lab, api: JobApi) -> None:
    api.outcome = "broken"
    declare(lab, api, policy={"retry_attempts": 3})
    task = await end_of(lab)
    assert "ended as broken: no paper" in error_of(task)
    assert task.progress is not None
    assert (task.progress.fraction, task.progress.message) in ((0.1, "busy"), (0.2, "busy"))
    assert len(api.submits) == 1


async def test_trouble_with_the_state_is_waited_out(lab: Lab, api: JobApi) -> None:
    troubles = iter(
        [
            answer(503, "busy", retry_after="0"),
            answer(200, "<html>maintenance</html>", "text/html"),
            answer(200, {"other": 1}),
            answer(429, "slowly"),
            b"HTTP/1.1 2",
        ]
    )

    async def trouble(request: Received) -> bytes | None:
        return next(troubles, None) if request.method == "GET" else None

    api.before = trouble
    declare(lab, api, result="$.value.report")
    task = await end_of(lab)
    assert task.outcome is not None
    assert task.outcome.value == "j1", task.outcome
    assert next(troubles, None) is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (answer(404, "gone"), "it does not have the upstream job any more"),
        (answer(410, "gone"), "status 410"),
        (answer(403, "Bearer hush-hush"), "status 403"),
        (answer(302, location="/elsewhere"), "redirects from a job's state"),
        (answer(200, {"state": "odd"}), "the state 'odd', which is in none of the lists"),
        (answer(200, {"state": ["busy"]}), "without a state at $.state"),
    ],
)
async def test_a_state_that_will_not_get_better_ends_the_task(lab: Lab, api: JobApi, given: bytes, told: str) -> None:
    async def state(request: Received) -> bytes | None:
        return given if request.method == "GET" else None

    api.before = state
    declare(lab, api, interval_seconds=0.01, max_interval_seconds=0.01)
    task = await end_of(lab)
    assert told in error_of(task)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (answer(200, {"id": "j1"}), "answered without $.links.self"),
        (answer(200, {"links": {"self": True}}), "neither text nor number"),
        (answer(200, "no", "text/plain"), "broken JSON"),
        (answer(500, "no"), "status 500"),
        (answer(200, {"links": {"self": "http://127.0.0.2:1/x"}}), "begins with https://"),
        (answer(200, {"links": {"self": "https://127.0.0.2:1/x"}}), "not public"),
        (answer(200, {"links": {"self": "http://a@b/x"}}), "no user"),
        (answer(200, {"links": {"self": "http://[::1/x"}}), "an address of the upstream job is none"),
        (answer(200, {"links": {"self": "file:///etc/passwd"}}), "begins with https://"),
        (answer(200, {"links": {"self": "x" * 3000}}), "more than 2048 characters"),
    ],
)
async def test_an_answer_that_leads_nowhere_ends_the_task(lab: Lab, api: JobApi, reply: bytes, told: str) -> None:
    async def begin(request: Received) -> bytes | None:
        return reply

    api.before = begin
    declare(lab, api, interval_seconds=0.01)
    assert told in error_of(await end_of(lab))


async def test_credentials_stay_at_the_origin_of_the_request(lab: Lab, api: JobApi) -> None:
    async def files(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, {"from": "elsewhere"}))

    async with serving(files) as other:

        async def result(request: Received) -> bytes | None:
            told = {"state": "done", "links": {"result": f"{other.url}/r"}}
            return answer(200, told) if request.method == "GET" else None

        api.before = result
        declare(lab, api, result_url="{$.links.result}", allow=(f"http://127.0.0.1:{other.port}",))
        task = await end_of(lab)
        assert task.outcome is not None
        assert task.outcome.value == {"from": "elsewhere"}
        assert "authorization" not in other.received[0].headers
        declare(lab, api, result_url="{$.links.result}")
        assert "begins with https://" in error_of(await end_of(lab))
        assert len(other.received) == 1


@pytest.mark.parametrize("operation_location", [True, False])
@pytest.mark.parametrize("fragment", ["", "#now"])
async def test_the_address_in_a_202_is_followed(lab: Lab, api: JobApi, operation_location: bool, fragment: str) -> None:
    async def monitor(request: Received) -> bytes | None:
        asked = sum(each.target == "/monitor" for each in api.received)
        if request.method == "POST":
            where = {"operation_location" if operation_location else "location": f"/monitor{fragment}"}
            return answer(202, {"accepted": True}, retry_after="0", **where)
        if request.target == "/final":
            return answer(200, {"final": True})
        if operation_location:
            state = (
                {"status": "Running"} if asked < 2 else {"status": "Succeeded", "resourceLocation": f"/final{fragment}"}
            )
            return answer(200, state, retry_after="0")
        return answer(202, retry_after="0") if asked < 2 else answer(303, location=f"/final{fragment}")

    api.before = monitor
    declare(lab, api, poll=None)
    # The default interval is for APIs that name none.
    lab.operations["report"].executor._follower._table = PollSettings(**TABLE)  # type: ignore[attr-defined]
    task = await end_of(lab)
    assert task.outcome is not None
    assert task.outcome.value == {"final": True}
    assert task.checkpoint["job"]["status_url"] == f"/monitor{fragment}"
    declare(lab, api, poll=None, accepted="result")
    task = await end_of(lab)
    assert task.outcome is not None
    assert task.outcome.value == {"accepted": True}


async def test_many_jobs_need_no_place_while_they_run(lab: Lab, api: JobApi) -> None:
    api.polls = 1000
    declare(lab, api, result="$.value.report", policy={"timeout_seconds": 0.2}, interval_seconds=0.1)
    async with lab.service(max_concurrency=1) as service:
        refs = [await submit(service) for _ in range(20)]
        await wait_for(lambda: len(api.submits) == 20)
        assert service.running == 20
        api.polls = 0
        ends = [await settled(service, ref) for ref in refs]
    assert {task.outcome.value for task in ends if task.outcome} == {f"j{n}" for n in range(1, 21)}


async def test_a_clean_stop_keeps_the_job_and_another_service_goes_on(lab: Lab, api: JobApi) -> None:
    api.polls = 1000
    declare(lab, api, result="$.value.report", cancel_url="/jobs/{$.id}")
    async with lab.service() as service:
        ref = await submit(service)
        await api.asked("GET", "/jobs/j1", 2)
    api.polls = 0
    async with lab.service() as service:
        task = await settled(service, ref)
    assert task.outcome is not None
    assert task.outcome.value == "j1"
    assert (len(api.submits), api.cancelled) == (1, [])


async def test_a_stop_during_the_request_waits_for_the_jobs_id(lab: Lab, api: JobApi) -> None:
    begun, answered = asyncio.Event(), asyncio.Event()

    async def slow(request: Received) -> bytes | None:
        if request.method == "POST":
            begun.set()
            await answered.wait()
        return None

    api.before = slow
    declare(lab, api, result="$.value.report")
    async with lab.service() as service:
        ref = await submit(service)
        await begun.wait()
        asyncio.get_running_loop().call_later(0.3, answered.set)
    async with lab.service() as service:
        task = await settled(service, ref)
    assert task.status is TaskStatus.COMPLETED
    assert len(api.submits) == 1


@pytest.mark.parametrize("how", ["cancel", "deadline", "cancel without a worker", "cancel in the request"])
async def test_the_job_is_cancelled_with_its_task(lab: Lab, api: JobApi, how: str) -> None:
    api.polls = 1000
    troubles = itertools.chain([answer(503)], itertools.repeat(None))
    answered = asyncio.Event()

    async def trouble(request: Received) -> bytes | None:
        if how == "cancel in the request" and request.method == "POST":
            await answered.wait()
        return next(troubles) if request.method == "DELETE" and how == "cancel" else None

    api.before = trouble
    declare(lab, api, cancel_url="/jobs/{$.id}?why={topic}")
    async with lab.service() as service:
        ref = await submit(service, max_wait_seconds=1.0 if how == "deadline" else None)
        await api.asked("POST", "/jobs")
        if how == "cancel in the request":
            await service.registry.cancel(ref, scope="a")
            answered.set()
        else:
            await api.asked("GET", "/jobs/j1")
        if how == "cancel":
            await service.registry.cancel(ref, scope="a")
        if how != "cancel without a worker":
            await settled(service, ref)
            await wait_for(lambda: api.cancelled)
    if how == "cancel without a worker":
        async with lab.service(max_concurrency=0) as service:
            assert (await service.registry.cancel(ref, scope="a")).status is TaskStatus.CANCELLED
            await wait_for(lambda: api.cancelled)
    assert api.cancelled == ["j1"]
    call = next(each for each in api.received if each.method == "DELETE")
    assert (call.target, call.headers["authorization"]) == ("/jobs/j1?why=x", "Bearer hush-hush")


async def test_a_job_that_came_to_its_end_is_not_cancelled(lab: Lab, api: JobApi) -> None:
    declare(lab, api, cancel_url="/jobs/{$.id}", result="$.value")
    async with lab.service() as service:
        await settled(service, await submit(service))
        assert await service._store.records(RecordQuery("upstream")) == []  # pyright: ignore[reportPrivateUsage]
    assert api.cancelled == []


async def test_the_idempotency_header_is_of_the_task_and_no_callers_key(lab: Lab, api: JobApi) -> None:
    declare(lab, api, idempotency_header="Idempotency-Key", result="$.value.report")
    async with lab.service() as service:
        ref = await submit(service, idempotency_key="mine")
        await settled(service, ref)
    assert api.submits == [ref]


async def test_a_request_may_hand_the_work_over_and_wait_to_be_called_back(lab: Lab, api: JobApi) -> None:
    options: dict[str, Any] = {"poll": None, "completion": "callback", "policy": {"timeout_seconds": 0.5}}
    declare(lab, api, body={"topic": "{topic}", "answer_to": "{callback_url}"}, url=f"{api.url}/jobs", **options)
    async with lab.service(public_url="https://tools.example.com") as service:
        ref = await submit(service)
        await api.asked("POST", "/jobs")
    async with lab.service(public_url="https://tools.example.com") as service:
        from raincheck.domain.task import Outcome

        url = api.received[0].json["answer_to"]
        assert url.startswith("https://tools.example.com/callbacks/")
        assert api.received[0].json["topic"] == "x"
        assert await service.callbacks.settle(url.rpartition("/")[2], Outcome(value="built")) == "accepted"
        task = await settled(service, ref)
        assert task.outcome == Outcome(value="built")
    assert len(api.submits) == 1

    async def echo(request: Received) -> bytes | None:
        return answer(422, request.body, "text/plain")

    api.before = echo
    task = await end_of(lab, public_url="https://tools.example.com")
    assert task.outcome is not None
    assert task.outcome.error is not None
    assert task.outcome.error.details["body_tail"] == '{"topic":"x","answer_to":"***"}'


@pytest.mark.parametrize("job", ["../admin", "..%2Fadmin", "%2e%2e", "..;", "..\\admin", ".", "a\0"])
async def test_an_answer_cannot_lead_out_of_the_declared_address(job: str, lab: Lab) -> None:
    async with serving(lambda request, writer: _told(writer, {"id": job})) as server:
        lab.operations["report"] = http_operation(
            "report",
            method="POST",
            url=f"{server.url}/v1/jobs",
            parameters=PARAMETERS,
            description="",
            poll=PollSettings(status_url="/v1/jobs/{$.id}", state="$.state", done=("done",), failed=("broken",)),
        )
        task = await end_of(lab)
        assert 'must not hold "." or ".."' in error_of(task)
        assert [each.method for each in server.received] == ["POST"]


async def _told(writer: asyncio.StreamWriter, value: Any) -> None:
    writer.write(answer(body=value))
