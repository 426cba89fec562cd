"""`[webhooks]` and `[operations.NAME.webhook]`: who is told of a task's end, and how it is signed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from raincheck.config.section import Section
from raincheck.egress.ip_ranges import network_of
from raincheck.egress.policy import HostRule
from raincheck.operations.webhook import EVENTS, WebhookEvent

_SECRET = re.compile(r"whsec_[A-Za-z0-9+/]{32,88}={0,2}|\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_MOST_SECRETS = 10

_Texts = Annotated[tuple[str, ...], Field(strict=False)]


def _checked_secrets(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) > _MOST_SECRETS:
        raise ValueError(f"there are at most {_MOST_SECRETS}")
    if not all(_SECRET.fullmatch(secret) for secret in value):
        raise ValueError(
            "each is whsec_… (24 to 64 random bytes in base64), or ${NAME}, the environment variable that holds one"
        )
    return value


class WebhooksSettings(Section):
    """`[webhooks]`: where callers may be called back, and how deliveries are made."""

    allow: _Texts = Field(
        default=(),
        description="The hosts to which a caller's `callback_url` may point: `hooks.example.com`, "
        "`*.example.com` (the names below it), `hooks.example.com:8443` (without a port: 443), `hooks.example.com:*`; "
        "over https, unless it begins with `http://`. Empty: no `callback_url` is taken.",
    )
    allow_networks: _Texts = Field(
        default=(),
        description="Networks whose addresses webhooks may have although they are not public, as `10.20.0.0/16`. A "
        "cloud's metadata address must be named by itself.",
    )
    secrets: _Texts = Field(
        default=(),
        repr=False,
        description="Sign what is sent: `whsec_…` as Standard Webhooks has it, or `${NAME}`, the environment "
        "variable that holds one; the newest first. Every one signs, so that receivers can change over. The receivers "
        "at each origin have secrets of their own, made of these: `raincheck tasks webhooks secret URL`.",
    )
    timeout_seconds: float = Field(
        default=10, ge=0.1, le=120, description="How long a receiver may take for one attempt, connecting included."
    )
    give_up_seconds: float = Field(
        default=86400,
        ge=1,
        le=604_800,
        description="For how long a delivery is tried, counted from the task's end; then it is kept for 30 days, for "
        "`raincheck tasks webhooks`.",
    )
    max_concurrency: int = Field(
        default=20, ge=1, le=1000, description="How many deliveries this process makes at once; to one host at most 4."
    )

    @field_validator("allow", mode="after")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            HostRule.parse(text)
        return value

    @field_validator("allow_networks", mode="after")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                network_of(text)
            except ValueError:
                raise ValueError(
                    f"{text[:80]!r} is no network; write it as 10.20.0.0/16, fd12::/48 or 10.20.0.7, with no bits set "
                    "behind its prefix"
                ) from None
        return value

    @field_validator("secrets", mode="after")
    @classmethod
    def _are_secrets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_secrets(value)

    @model_validator(mode="after")
    def _is_signed(self) -> WebhooksSettings:
        if self.allow and not self.secrets:
            raise ValueError("'allow' needs 'secrets': every message is signed")
        return self


class WebhookSettings(Section):
    """`[operations.NAME.webhook]`: where every end of the operation's tasks is reported, for any caller."""

    url: str = Field(
        pattern=r"^(https?://|\$\{)\S+$",
        repr=False,
        description="The address; `${NAME}` is replaced by that environment variable.",
    )
    secrets: _Texts = Field(
        default=(), repr=False, description="The receiver's own, used as they are; empty: those of [webhooks]."
    )
    events: Annotated[tuple[WebhookEvent, ...], Field(strict=False)] = Field(
        default=EVENTS, min_length=1, description="Which ends are told."
    )
    headers: Mapping[str, str] = Field(
        default_factory=dict[str, str],
        repr=False,
        description="Sent beside those of Standard Webhooks, with the placeholders of `url`.",
    )

    @field_validator("secrets", mode="after")
    @classmethod
    def _are_secrets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_secrets(value)


class OperationWebhooks(Section):
    """The key of an operation's table that names its webhook."""

    webhook: WebhookSettings | None = Field(
        default=None,
        description="Who is told of every end of its tasks, a table of its own: see [operations.NAME.webhook]. "
        "Unset: nobody, but a caller's `callback_url`.",
    )
