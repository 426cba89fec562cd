"""Job APIs of other servers: the declaration of an operation's polling, and the meaning of the answers.

Two ways: a table that says where the state stands and what its values mean (`PollSettings`), and the convention of
`202 Accepted` with the address of a status monitor (RFC 9110 §15.3.3).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import quote, urldefrag, urljoin

from raincheck.domain.redaction import redacted_texts, without
from raincheck.errors import ConfigurationError, UpstreamError
from raincheck.operations.http.client import Reply
from raincheck.operations.http.json_path import JsonPath
from raincheck.operations.http.path_parts import leads_out
from raincheck.operations.templates import Template, formatted
from raincheck.operations.validation_messages import capped

_NAMES = re.compile(r"\$?\{([^{}]*)\}")
_HEADER = re.compile(r"header\.([A-Za-z0-9-]+)")
_LONGEST_VALUE = 2048
_RUNNING = frozenset(
    {
        *("accepted", "created", "inprogress", "notstarted", "pending", "processing", "queued", "running"),
        *("started", "submitted", "working"),
    }
)
_FAILED = frozenset({"aborted", "canceled", "cancelled", "error", "failed", "failure"})
_DONE = frozenset({"complete", "completed", "done", "ok", "ready", "succeeded", "success"})


@dataclass(frozen=True, kw_only=True, slots=True)
class PollSettings:
    """How the state of a job is asked; docs/configuration.md explains each member ([operations.NAME.poll])."""

    status_url: str
    state: str
    done: tuple[str, ...]
    failed: tuple[str, ...]
    running: tuple[str, ...] = ()
    result: str | None = None
    result_url: str | None = None
    error: str | None = None
    progress: str | None = None
    progress_total: float = 100.0
    interval_seconds: float = 5.0
    max_interval_seconds: float = 60.0
    request_timeout_seconds: float = 30.0
    cancel_url: str | None = None
    cancel_method: str = "DELETE"
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStatus:
    """What a status answer says.

    Attributes:
        state: Where the job is.
        shown: The API's own word for it.
        progress: From 0 to 1, None where it is not said.
        result: Once done: the value, where no `result_url` says where it is.
        error: Once failed: what the API says of it.
    """

    state: Literal["running", "done", "failed"]
    shown: str = ""
    progress: float | None = None
    result: Any = None
    result_url: str | None = None
    error: str | None = None


class UpstreamApi(Protocol):
    """One way in which an API does long work. What it remembers of a job is JSON, and part of the checkpoint."""

    def started(self, reply: Reply, url: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """What is to be remembered of the job that this answer to `url` accepted; None where it accepted none.

        Raises:
            UpstreamError: The answer does not hold what it should.
        """
        ...

    def status_url(self, job: Mapping[str, Any], url: str, arguments: Mapping[str, Any]) -> str:
        """Where its state is asked; `url` is where it was submitted."""
        ...

    def verdict(self, reply: Reply, job: Mapping[str, Any], status_url: str) -> JobStatus:
        """What an answer from there says.

        Raises:
            UpstreamError: It says nothing that is understood.
        """
        ...


class AddressTemplate:
    """An address made of an answer: `{$.json.path}`, `{header.name}` and `{parameter}`.

    What stands at the very beginning is an address itself, or the start of one; elsewhere a value is percent-encoded,
    so that it stays one component.
    """

    def __init__(self, text: str, *, place: str, parameters: Mapping[str, Any]) -> None:
        names = [name for name in _NAMES.findall(text) if name.startswith("$") or _HEADER.fullmatch(name)]
        self._paths = {name: JsonPath(name, place=place) for name in names if name.startswith("$")}
        self._headers = {name: found[1].lower() for name in names if (found := _HEADER.fullmatch(name))}
        self._template = Template.parse(
            text, place=place, parameters={**parameters, **dict.fromkeys(names)}, environment=True
        )
        self.parameters = self._template.names - self._paths.keys() - self._headers.keys()
        if not self._template.begins_with_placeholder and text.startswith("//"):
            raise ConfigurationError(f"{place}: it must begin with http://, https://, / or a placeholder")

    def values(self, reply: Reply) -> dict[str, str]:
        """Its values in that answer.

        Raises:
            UpstreamError: One is not there, or neither text nor number.
        """
        found: dict[str, str] = {}
        document = reply.document if self._paths else None
        for name in (*self._paths, *self._headers):
            value = self._paths[name].first(document) if name in self._paths else reply.headers.get(self._headers[name])
            if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
                raise UpstreamError(f"{reply.host} answered without {name}, or it is neither text nor number")
            found[name] = formatted(value)
            if len(found[name]) > _LONGEST_VALUE:
                raise UpstreamError(f"{reply.host} answered with more than {_LONGEST_VALUE} characters at {name}")
        return found

    def address(self, values: Mapping[str, Any], base: str) -> str:
        """The address, absolute; `base` is what a relative one is relative to.

        Raises:
            UpstreamError: A value would change the address around it.
        """
        missing = self._template.names - values.keys()
        if missing:
            raise UpstreamError(f"what is known of the upstream job has no {min(missing)}: the operation was changed")
        if leads_out(self._template.parts[self._template.begins_with_placeholder :], values):
            raise UpstreamError('a value of an address must not hold "." or ".." as a part')
        parts: list[str] = []
        for index, part in enumerate(self._template.parts):
            if isinstance(part, str):
                parts.append(part)
                continue
            value = formatted(values[part.name])
            if index and value == "":
                raise UpstreamError(f"the value of {part.name} is empty and cannot stand in an address")
            parts.append(value if index == 0 else quote(value, safe=""))
        return _absolute(base, "".join(parts))


class Table:
    """A `PollSettings`, compiled.

    Raises:
        ConfigurationError: A path or an address is wrong, or two members exclude each other.
    """

    def __init__(self, table: PollSettings, *, operation_type: str, parameters: Mapping[str, Any]) -> None:
        self.table = table
        place = f"operation {operation_type!r}: poll"

        def address(key: str, text: str | None, names: Mapping[str, Any]) -> AddressTemplate | None:
            return None if text is None else AddressTemplate(text, place=f"{place}.{key}", parameters=names)

        def path(key: str, text: str | None) -> JsonPath | None:
            return None if text is None else JsonPath(text, place=f"{place}.{key}")

        self._status = AddressTemplate(table.status_url, place=f"{place}.status_url", parameters=parameters)
        self.cancel = address("cancel_url", table.cancel_url, parameters)
        self._result_url = address("result_url", table.result_url, {})
        self._state = JsonPath(table.state, place=f"{place}.state")
        self._result, self._error = path("result", table.result), path("error", table.error)
        self._progress = path("progress", table.progress)
        if table.result is not None and table.result_url is not None:
            raise ConfigurationError(f"{place}: 'result' and 'result_url' exclude each other")
        if not table.done or not table.failed:
            raise ConfigurationError(f"{place}: 'done' and 'failed' each need a value")
        every = [*table.done, *table.failed, *table.running]
        twice = next((value for value in every if every.count(value) > 1), None)
        if twice is not None:
            raise ConfigurationError(f"{place}: {capped(twice, 40)!r} stands twice in done, failed and running")
        if table.interval_seconds > table.max_interval_seconds:
            raise ConfigurationError(
                f"{place}: interval_seconds ({table.interval_seconds:g}) is above max_interval_seconds "
                f"({table.max_interval_seconds:g})"
            )

    def started(self, reply: Reply, url: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `UpstreamApi`."""
        values = self._status.values(reply)
        if self.cancel is not None:
            values |= self.cancel.values(reply)
        return {"by": "table", "values": values}

    def status_url(self, job: Mapping[str, Any], url: str, arguments: Mapping[str, Any]) -> str:
        """See `UpstreamApi`."""
        return self._status.address({**arguments, **job["values"]}, url)

    def verdict(self, reply: Reply, job: Mapping[str, Any], status_url: str) -> JobStatus:
        """See `UpstreamApi`."""
        if reply.status >= 300:
            raise UpstreamError(
                f"{reply.host} redirects from a job's state, which is not followed", details={"status": reply.status}
            )
        document = reply.document
        found = self._state.first(document)
        if found is None or isinstance(found, dict | list):
            raise UpstreamError(f"{reply.host} answered without a state at {self.table.state}")
        state = formatted(found)
        progress = self._fraction(document)
        shown = _shown(state)
        if state in self.table.done:
            url = None
            if self._result_url is not None:
                url = self._result_url.address(self._result_url.values(reply), status_url)
            result = document if self._result is None else self._result.first(document)
            return JobStatus(state="done", shown=shown, result=None if url else result, result_url=url)
        if state in self.table.failed:
            told = None if self._error is None else self._error.first(document)
            return JobStatus(state="failed", shown=shown, error=None if told is None else _text(told))
        if self.table.running and state not in self.table.running:
            raise UpstreamError(f"{reply.host} answered with the state {shown!r}, which is in none of the lists")
        return JobStatus(state="running", shown=shown, progress=progress)

    def _fraction(self, document: Any) -> float | None:
        found = None if self._progress is None else self._progress.first(document)
        if isinstance(found, str):
            try:
                found = float(found.strip().removesuffix("%"))
            except ValueError:
                return None
        if isinstance(found, bool) or not isinstance(found, int | float):
            return None
        return min(1.0, max(0.0, found / self.table.progress_total))


class AcceptedJob:
    """`202 Accepted` with `Operation-Location`, or with `Location` (and `Retry-After`).

    The monitor answers 202 while the work runs; or 200 with a `status`, one of the usual words. It ends with the
    result, with a redirect to it, or with `resourceLocation` in its answer.

    Args:
        always: Whether a `Location` alone is one; otherwise there has to be a `Retry-After` beside it.
    """

    def __init__(self, *, always: bool) -> None:
        self._always = always

    def started(self, reply: Reply, url: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """See `UpstreamApi`."""
        if reply.status != 202:
            return None
        headers = reply.headers
        operation = headers.get("operation-location") or headers.get("azure-asyncoperation")
        location = headers.get("location")
        if operation is None and (location is None or not (self._always or "retry-after" in headers)):
            if self._always:
                raise UpstreamError(f"{reply.host} accepted the work without saying where its state is asked")
            return None
        monitor = operation or location or ""
        if len(monitor) > _LONGEST_VALUE or len(location or "") > _LONGEST_VALUE:
            raise UpstreamError(f"{reply.host} answered with more than {_LONGEST_VALUE} characters as an address")
        result = location if operation is not None and location != operation else None
        return {"by": "accepted", "status_url": monitor, "result_url": result, "operation": operation is not None}

    def status_url(self, job: Mapping[str, Any], url: str, arguments: Mapping[str, Any]) -> str:
        """See `UpstreamApi`."""
        return _absolute(url, job["status_url"])

    def verdict(self, reply: Reply, job: Mapping[str, Any], status_url: str) -> JobStatus:
        """See `UpstreamApi`."""
        if 300 <= reply.status < 400:
            location = reply.headers.get("location")
            if location is None:
                raise UpstreamError(f"{reply.host} redirects to nowhere")
            return JobStatus(state="done", result_url=_absolute(status_url, location))
        document = _object(reply)
        status = document.get("status")
        shown = _shown(status) if isinstance(status, str) else ""
        word = re.sub(r"[^a-z]", "", shown.lower())
        if reply.status == 202:
            return JobStatus(state="running", shown=shown)
        if word in _FAILED:
            told = document.get("error")
            return JobStatus(state="failed", shown=shown, error=None if told is None else _text(told))
        if word in _RUNNING or (job["operation"] and word and word not in _DONE):
            return JobStatus(state="running", shown=shown)
        resource = document.get("resourceLocation")
        where = resource if isinstance(resource, str) else job["result_url"]
        if where is not None:
            return JobStatus(state="done", shown=shown, result_url=_absolute(status_url, where))
        return JobStatus(state="done", shown=shown, result=reply.value)


def _absolute(base: str, reference: str) -> str:
    """The address that a reference means, without its fragment: that is for who reads the answer (RFC 9110 §10.2.2)."""
    try:
        return urldefrag(urljoin(base, reference)).url
    except ValueError:
        raise UpstreamError("an address of the upstream job is none", details={"refused": True}) from None


def _object(reply: Reply) -> Mapping[str, Any]:
    if "json" not in reply.headers.get("content-type", ""):
        return {}
    document = reply.document if reply.body else None
    return document if isinstance(document, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _text(told: Any) -> str:
    if isinstance(told, dict) and isinstance(told.get("message"), str):  # pyright: ignore[reportUnknownMemberType]
        told = told["message"]  # pyright: ignore[reportUnknownVariableType]
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)


def _shown(state: str) -> str:
    # Cut first, what is left of a secret would not be found.
    return capped(without(state, redacted_texts()), 100)
