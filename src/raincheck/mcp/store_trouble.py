"""What callers are told when the task store fails: whether to try again; where it is and why is for the log."""

from __future__ import annotations

import logging
import secrets

from raincheck.errors import StoreError

__all__ = ["for_callers"]

logger = logging.getLogger(__name__)

_LATER = "The task store does not answer at the moment; nothing was changed. Try again in a moment."
_NEVER = "The task store cannot be used; nothing was changed. The server's log says why."


def for_callers(error: StoreError) -> StoreError:
    """The error as a caller may see it; the log gets the rest under the correlation id in its `details`."""
    correlation = secrets.token_hex(8)
    logger.warning("the task store failed, correlation id %s: %s", correlation, error.message)
    message = _LATER if error.retryable else _NEVER
    return type(error)(message, retryable=error.retryable, details={"correlation_id": correlation})
