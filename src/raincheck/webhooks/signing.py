"""The headers of Standard Webhooks (https://www.standardwebhooks.com), by its own library."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from datetime import datetime

from standardwebhooks import Webhook

from raincheck.egress.errors import RequestRefused
from raincheck.egress.policy import Target
from raincheck.errors import InvalidParameters

_PREFIX = "whsec_"
_INFO = b"raincheck webhook secret 1\0"


def secret_of(secret: str, url: str) -> str:
    """What a secret of [webhooks] is for the receivers at one origin (scheme, host and port): they have that one alone.

    Who is told nothing but its own cannot sign what another receiver would take for ours.

    Raises:
        RequestRefused: The address is none.
    """
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    derived = hmac.digest(key, _INFO + Target.parse(url).origin.encode(), "sha256")
    return _PREFIX + base64.b64encode(derived).decode()


def secrets_of(secrets: Sequence[str], url: str) -> tuple[str, ...]:
    """`secret_of` for each.

    Raises:
        InvalidParameters: The address is none.
    """
    try:
        return tuple(secret_of(secret, url) for secret in secrets)
    except RequestRefused as error:
        raise InvalidParameters(error.message) from None


def signed(secrets: Sequence[str], message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """`webhook-id`, `webhook-timestamp` and `webhook-signature`: one signature by each secret."""
    text = body.decode()
    signatures = [Webhook(secret).sign(message_id, at, text) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
