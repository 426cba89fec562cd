"""What callers are told when the task store fails: what is wrong and whether to try again, not where it is."""

from __future__ import annotations

import logging
import re
import secrets

from raincheck.domain.local_paths import without_folders
from raincheck.errors import StoreError

logger = logging.getLogger(__name__)

_ADDRESS = re.compile(r"(?: at)? [a-z][a-z0-9+]*://[^\s:]+(?::\d+)?[^\s:]*")


def for_callers(error: StoreError) -> StoreError:
    """The error as a caller may see it; the log gets the whole under the correlation id in its `details`."""
    correlation = secrets.token_hex(8)
    logger.warning("the task store failed, correlation id %s: %s", correlation, error.message)
    told = without_folders(_ADDRESS.sub("", error.message))
    details = {**error.details, "correlation_id": correlation}
    return type(error)(told, retryable=error.retryable, details=details)
