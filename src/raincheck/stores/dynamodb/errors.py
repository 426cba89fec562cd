"""Errors of DynamoDB and its client, mapped to raincheck's: the one module that reads their codes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

import aiohttp
from botocore.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
    TokenRetrievalError,
)

from raincheck.errors import StoreError, StoreUnavailable, StoreUnusable

FOREIGN = (BotoCoreError, ClientError, aiohttp.ClientError, OSError, json.JSONDecodeError)
"""What a call of the client may raise."""

_THROTTLED = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottlingError",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_CONFLICT = frozenset(
    {"ReplicatedWriteConflictException", "TransactionConflict", "TransactionConflictException"}
    | {"TransactionInProgressException"}
)
_BROKEN = frozenset({"InternalFailure", "InternalServerError", "ServiceUnavailable", "500", "502", "503", "504"})
_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "UnrecognizedClientException",
    }
)
_CLOCK = frozenset({"InvalidSignatureException", "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch"})
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
_ACTION = re.compile(r"perform: dynamodb:(\w+)")
_CUT = (ConnectionClosedError, EndpointConnectionError, aiohttp.ClientConnectionError, ConnectionError)


class ConditionFailed(Exception):
    """A conditional write found another item than it asked for: nothing was written.

    Attributes:
        items: For each part of the write the item whose condition failed, as it is; an empty one where there is none,
            and None for the parts whose conditions held.
        named: Of a transaction the items whose conditions failed, by the names of its parts.
        repeated: Whether the write had been tried before, and may have been carried out then.
    """

    def __init__(self, items: list[Mapping[str, Any] | None]) -> None:
        super().__init__("a condition of the write did not hold")
        self.items = items
        self.named: Mapping[str, Mapping[str, Any]] = {}
        self.repeated = False


def code_of(error: BaseException) -> str:
    """DynamoDB's code, empty where it said none."""
    return str(_response(error).get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def failed_conditions(error: BaseException) -> ConditionFailed | None:
    """The conditions that failed, where that is why a write was refused."""
    code, response = code_of(error), _response(error)
    if code == "ConditionalCheckFailedException":
        return ConditionFailed([response.get("Item", {})])
    if code != "TransactionCanceledException":
        return None
    reasons = response.get("CancellationReasons", [])
    if all(reason.get("Code") != "ConditionalCheckFailed" for reason in reasons):
        return None
    return ConditionFailed(
        [reason.get("Item", {}) if reason.get("Code") == "ConditionalCheckFailed" else None for reason in reasons]
    )


def is_passing(error: BaseException) -> bool:
    """Whether the server answers and will take the same call in a moment: throttled, or in conflict with others."""
    code = code_of(error)
    if code == "TransactionCanceledException":
        codes = {reason.get("Code") for reason in _response(error).get("CancellationReasons", [])} - {"None", None}
        return bool(codes) and codes <= _THROTTLED | _CONFLICT | {"ProvisionedThroughputExceeded"}
    return code in _THROTTLED or code in _CONFLICT or code in _BROKEN


def is_cut(error: BaseException) -> bool:
    """Whether the connection could not be made or was lost: the call may have been carried out all the same."""
    return isinstance(error, _CUT)


def is_unanswered(error: BaseException) -> bool:
    """Whether the call was sent, and its outcome is unknown."""
    if isinstance(error, ClientError):
        return code_of(error) in _BROKEN
    return not isinstance(error, (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError, SSLError))


def store_error(error: BaseException, place: str, action: str, seconds: float) -> StoreError:
    """The error of ours for one of theirs: one line that names the table, and nothing of the caller's data.

    Args:
        error: What the client raised.
        place: The table and where it is, as a sentence's beginning.
        action: What was asked of DynamoDB, as IAM calls it: `PutItem`.
        seconds: How long a call may take.
    """
    if isinstance(error, ClientError):
        return _refusal(error, place, action)
    if isinstance(error, (ReadTimeoutError, ConnectTimeoutError, TimeoutError)):
        return StoreUnavailable(f"{place} does not answer within {seconds:g} s.")
    if isinstance(error, SSLError):
        return StoreUnavailable(f"{place} cannot be reached: TLS failed (see 'tls_ca' in [state]).")
    if isinstance(error, NoRegionError):
        return StoreUnavailable(f"{place} needs a region: set 'region' in [state], or AWS_REGION.")
    if isinstance(error, InvalidRegionError):
        return StoreUnavailable(f"{place} needs a valid region in 'region' of [state], or in AWS_REGION.")
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, TokenRetrievalError)):
        return StoreUnavailable(f"{place} needs AWS credentials, and the AWS environment has none that are complete.")
    if isinstance(error, ProfileNotFound):
        return StoreUnavailable(f"{place} needs AWS credentials, and there is no profile as AWS_PROFILE names it.")
    if isinstance(error, (*_CUT, ProxyConnectionError)):
        return StoreUnavailable(f"{place} cannot be reached.")
    return StoreUnavailable(f"{place} failed ({type(error).__name__}).")


def _response(error: BaseException) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", getattr(error, "response", {}))


def _refusal(error: ClientError, place: str, action: str) -> StoreError:
    code = code_of(error)
    # The text may quote data and names of the account: it is looked at, never shown.
    text = str(_response(error).get("Error", {}).get("Message", ""))
    if code in _DENIED:
        named = _ACTION.search(text)
        action = named[1] if named else action
        return StoreUnavailable(f"{place} may not be used: this AWS identity needs the right dynamodb:{action} on it.")
    if code in _THROTTLED:
        return StoreUnavailable(f"{place} is throttled by AWS ({code}).")
    if code in _CONFLICT or code == "TransactionCanceledException":
        return StoreUnavailable(f"{place} is busy: others write the same items all the time.")
    if code in _CREDENTIALS:
        return StoreUnavailable(f"{place} does not accept this process's AWS credentials ({code}).")
    if code in _CLOCK:
        return StoreUnavailable(
            f"{place} does not accept this process's signature ({code}): its secret key or its clock is wrong."
        )
    if code == "ResourceNotFoundException":
        return StoreUnavailable(f"{place} is not there, or lacks an index; `raincheck store migrate` makes it.")
    if code == "ResourceInUseException":
        return StoreUnavailable(f"{place} is being made or changed.")
    if code == "UnknownOperationException":
        return StoreUnusable(f"{place} is not a DynamoDB.")
    if code == "ItemCollectionSizeLimitExceededException" or (code == "ValidationException" and "size" in text.lower()):
        return StoreError(f"{place} cannot hold a value as large as this.")
    return StoreUnavailable(f"{place} refuses {action} ({code or 'no code'}).")
