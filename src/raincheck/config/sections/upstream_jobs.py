"""`[operations.NAME.poll]`: how an HTTP API says how far its long work is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raincheck.config.section import Section

_PATH = r"^\$.*$"
_Texts = Annotated[tuple[str, ...], Field(strict=False)]


class PollSettings(Section):
    """`[operations.NAME.poll]`: the API answers at once with a job of its own, whose state is asked until it ends."""

    status_url: str = Field(
        min_length=1,
        description="Where the state is asked, absolute or relative to `url`: `{$.json.path}` and `{header.name}` are "
        "values of the answer to the request, `{name}` a parameter.",
    )
    state: str = Field(pattern=_PATH, description="Where the state stands in that answer, a JSON path (RFC 9535).")
    done: _Texts = Field(min_length=1, description="The states in which the work is done (numbers as texts).")
    failed: _Texts = Field(min_length=1, description="Those in which it has failed, or was cancelled there.")
    running: _Texts = Field(
        default=(), description="Those in which it goes on; any other is an error then. Empty: all others."
    )
    result: str | None = Field(
        default=None, pattern=_PATH, description="Where the result stands in the answer; unset: it is the whole answer."
    )
    result_url: str | None = Field(
        default=None,
        min_length=1,
        description="Where the result is fetched, in place of `result`; placeholders are values of the last answer.",
    )
    error: str | None = Field(default=None, pattern=_PATH, description="Where the answer says why it failed.")
    progress: str | None = Field(default=None, pattern=_PATH, description="Where it says how far it is, a number.")
    progress_total: float = Field(default=100, gt=0, le=1e12, description="What `progress` counts up to.")
    interval_seconds: float = Field(
        default=5,
        ge=0.05,
        le=86400,
        description="The first interval; each is half as long again, and none shorter than a `Retry-After`.",
    )
    max_interval_seconds: float = Field(default=60, ge=0.05, le=86400, description="The longest interval.")
    request_timeout_seconds: float = Field(
        default=30, ge=0.1, le=3600, description="The bound on one question, and on the cancel call."
    )
    cancel_url: str | None = Field(
        default=None,
        min_length=1,
        description="What is called when the task ends before the work does; placeholders as in `status_url`.",
    )
    cancel_method: Literal["DELETE", "POST", "PUT", "PATCH"] = Field(
        default="DELETE", description="The method of that call."
    )
    allow: _Texts = Field(
        default=(),
        description="Hosts beside that of `url` to which addresses in the answers may lead whatever address they "
        "resolve to, as `files.example.com` or `http://10.0.0.5:8080`; others have to be public and https.",
    )
