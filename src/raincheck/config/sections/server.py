"""`[server]`: how clients reach it, who may, and what it says about itself."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from raincheck._version import __version__
from raincheck.config.section import Section, Size
from raincheck.config.sections.auth import AuthSettings, is_loopback

TOOL_USE_IDS = ("claudecode/toolUseId", "codex-mcp-client:callId")
"""The keys that are known to name one tool use, never a whole conversation (docs/which-client.md)."""

_TOOL_USE_ID = re.compile(r"(?:[^\s:]+:)?[^\s:]+")

Timeout = Annotated[float, Field(ge=1, le=3600)]

_HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::(?:\d{1,5}|\*))?")
_ORIGIN = re.compile(rf"[a-z][a-z0-9+.-]*://{_HOST.pattern}")


class ServerSettings(Section):
    """`[server]`: how clients reach it and what it says about itself."""

    name: str = Field(default="raincheck", min_length=1, description="The server's name, as clients show it.")
    version: str = Field(default=__version__, min_length=1, description="The version that clients are told.")
    instructions: str | None = Field(
        default=None, description="What the client's model is told about the whole server; unset: raincheck's own text."
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="The address to listen on (not for stdio).")
    port: int = Field(default=8000, ge=0, le=65535, description="The port to listen on (not for stdio); 0: any free.")
    transport: Literal["stdio", "streamable-http", "sse"] = Field(
        default="stdio", description="How clients speak to it; `streamable-http` answers at the path /mcp."
    )
    handle_tools: Literal["all", "status", "none"] = Field(
        default="all",
        description="Which handle tools are listed: `all`; `status`: without `initiate_background_task`, since every "
        "operation is a tool of its own (it is still answered); `none`: for a server whose clients all have tasks, "
        "where a call that would give a ticket waits for its result instead.",
    )
    detail: Literal["compact", "full"] = Field(
        default="compact",
        description="What tickets and statuses hold: `compact`: what a model needs; `full`: every member, for "
        'programs, as a caller gets by `detail = "full"`.',
    )
    tool_use_ids: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=TOOL_USE_IDS,
        description="Keys of a call's `_meta` by which clients name one tool use: a call that is sent again with the "
        "same one is the same task. `client:key`: of clients of that name (`clientInfo`) alone. Empty: none is looked "
        "at.",
    )
    allow_anonymous: bool = Field(
        default=False, description="Without [server.auth], listen on more than loopback: whoever gets there may call."
    )
    allowed_hosts: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description="Names in requests' `Host` that are answered, as `tools.example.com` or `tools.example.com:8443`; "
        "loopback's are, where `host` is loopback. Empty where `host` is not: IP addresses and `localhost` are, with "
        "[server.auth] every name.",
    )
    allowed_origins: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description="Web pages whose scripts may call, as `https://app.example.com`; beside those of loopback, where "
        "`host` is loopback. Elsewhere, with [server.auth] and without `allowed_hosts`, every page's may.",
    )
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
        description="Where this server is reached from outside, as `https://tools.example.com`: the start of the "
        "addresses by which others settle tasks (`POST …/callbacks/{token}`). Unset: that path is not answered.",
    )
    callback_secret: str | None = Field(
        default=None,
        min_length=32,
        repr=False,
        description="A random text, from the environment and the same for all servers and workers: a task then has "
        "the same callback address after a lost worker. Unset: a new one, beside the first.",
    )
    max_connections: int = Field(
        default=4096,
        ge=1,
        le=65_536,
        description="The most connections at once, and at most three quarters of the "
        "file descriptors that the process may open (`ulimit -Hn`). A new one takes the place of one that is idle.",
    )
    max_connections_per_address: int = Field(
        default=2048,
        ge=1,
        le=65_536,
        description="The most of one address (of one /64 network, for IPv6). Behind a "
        "proxy all have its address: as many as `max_connections` then.",
    )
    head_timeout_seconds: Timeout = Field(
        default=10, description="A connection without a whole head of a request is ended after this time."
    )
    body_timeout_seconds: Timeout = Field(
        default=30, description="A request whose body is not whole after this time is refused with 408."
    )
    write_timeout_seconds: Timeout = Field(
        default=30, description="A connection whose reader takes nothing of an answer for this time is ended."
    )
    max_body_bytes_under_way: Size = Field(
        default=67_108_864,
        description="The bytes of all requests' bodies above 64 KiB that are read or worked on at "
        "once; the others wait. Small ones do not count.",
    )
    auth: AuthSettings | None = Field(default=None, description="The table [server.auth].")

    @field_validator("tool_use_ids", mode="after")
    @classmethod
    def _are_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_TOOL_USE_ID.fullmatch(each) for each in value):
            raise ValueError("each is a key of _meta, as claudecode/toolUseId, or client:key, without blanks")
        return value

    @field_validator("allowed_hosts", mode="after")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_HOST.fullmatch(each) for each in value):
            raise ValueError("each is a host's name, or name:port, without https:// and without a path")
        return value

    @field_validator("allowed_origins", mode="after")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_ORIGIN.fullmatch(each) for each in value):
            raise ValueError("each is an origin as browsers send it: https://name or https://name:port, no path")
        return value

    @model_validator(mode="after")
    def _exposure_is_meant(self) -> ServerSettings:
        if self.allow_anonymous and self.auth is not None:
            raise ValueError("'allow_anonymous' and [server.auth] exclude each other")
        if self.allowed_origins and not self.allowed_hosts and not is_loopback(self.host):
            raise ValueError(f"'allowed_origins' needs 'allowed_hosts' where 'host' is {self.host}")
        return self
