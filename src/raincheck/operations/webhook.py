"""An operation's own webhook: receives every end of its tasks."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from raincheck.egress.errors import RequestRefused
from raincheck.egress.policy import Target
from raincheck.errors import ConfigurationError
from raincheck.operations.environment import filled_in

WebhookEvent = Literal["completed", "failed", "cancelled"]

EVENTS: tuple[WebhookEvent, ...] = ("completed", "failed", "cancelled")

_PREFIX = "whsec_"
_KEY_BYTES = range(24, 65)
_MOST_SECRETS = 10
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\x80-\U0010ffff]*")
_OURS = re.compile(r"webhook-.*|content-.*|host|connection|transfer-encoding|accept-encoding|user-agent", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """Whom every end of an operation's tasks is told. `${NAME}` in a value is that environment variable.

    Attributes:
        url: The address, https or http; one that is not on the public internet needs `allow_networks` of [webhooks],
            unless the host is an IP address.
        secrets: The signing secrets, `whsec_…`, the newest first: each signs, so that a receiver can change over. None:
            those of [webhooks].
        events: Which ends are told.
        headers: Sent beside the ones of Standard Webhooks.

    Raises:
        ConfigurationError: A value is wrong; none is repeated.
    """

    url: str = field(repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)
    events: Sequence[WebhookEvent] = EVENTS
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    def __post_init__(self) -> None:
        """Fill in the environment, and check."""
        url = filled_in(self.url, "url", "webhook")
        try:
            Target.parse(url)
        except RequestRefused as error:
            raise ConfigurationError(f"webhook: invalid value for 'url': {error.message}") from None
        if not self.events or not set(self.events) <= set(EVENTS):
            raise ConfigurationError(f"webhook: invalid value for 'events'; allowed: a list of {', '.join(EVENTS)}")
        headers = {name: filled_in(value, "headers", "webhook") for name, value in self.headers.items()}
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name) or _OURS.fullmatch(name):
                raise ConfigurationError(
                    f"webhook: invalid value for 'headers': {name[:40]!r} is no header's name, or one that "
                    "raincheck writes itself"
                )
            if not _HEADER_VALUE.fullmatch(value):
                raise ConfigurationError(f"webhook: invalid value for 'headers': {name} holds a control character")
        object.__setattr__(self, "url", url)
        object.__setattr__(self, "secrets", checked_secrets(self.secrets, "webhook"))
        object.__setattr__(self, "headers", headers)
        object.__setattr__(self, "events", tuple(self.events))

    @property
    def host(self) -> str:
        """Where it is, as it may be shown."""
        return Target.parse(self.url).origin


def checked_secrets(secrets: Sequence[str], place: str) -> tuple[str, ...]:
    """Signing secrets, with what the environment holds in the place of `${NAME}`.

    Raises:
        ConfigurationError: One is missing in the environment, or no secret of Standard Webhooks.
    """
    if isinstance(secrets, str) or len(secrets) > _MOST_SECRETS:
        raise ConfigurationError(f"{place}: 'secrets' is a list of at most {_MOST_SECRETS} texts")
    filled = tuple(filled_in(secret, "secrets", place).strip() for secret in secrets)
    for secret in filled:
        try:
            key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not secret.startswith(_PREFIX) or len(key) not in _KEY_BYTES:
            raise ConfigurationError(
                f"{place}: invalid value for 'secrets'; allowed: {_PREFIX} and 24 to 64 random bytes in base64, or "
                "${NAME}, the environment variable that holds one (to make one: echo whsec_$(openssl rand -base64 32))"
            )
    return filled
