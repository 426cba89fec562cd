"""Who may call an operation, and what of its caller it is given."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from raincheck.domain.caller import ANONYMOUS, LOCAL, Caller
from raincheck.errors import ConfigurationError, OperationFailed, UnknownOperation

if TYPE_CHECKING:
    from raincheck.operations.operation import Policy

_PRINCIPAL = re.compile(r"principal:\S+")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def check_callers(
    *,
    callers: Sequence[str],
    required_scopes: Sequence[str],
    caller_claims: Sequence[str],
    forward_headers: Sequence[str],
) -> None:
    """Check what a declaration says of callers.

    Raises:
        ConfigurationError: A name is none; the message says what is allowed.
    """
    members = {
        "callers": callers,
        "required_scopes": required_scopes,
        "caller_claims": caller_claims,
        "forward_headers": forward_headers,
    }
    for member, names in members.items():
        if isinstance(names, str) or "" in names:
            raise ConfigurationError(f"{member} must be a list of texts that are not empty; it was {names!r:.80}")
    for name in callers:
        if name not in (LOCAL, ANONYMOUS) and not _PRINCIPAL.fullmatch(name):
            raise ConfigurationError(
                f'callers: {name[:80]!r} is no scope; allowed: "local", "anonymous", "principal:client=NAME" (a token '
                'of the settings), "principal:iss=ISSUER|sub=SUBJECT" (as `raincheck tasks list` shows it); '
                'a principal may have `*`: "principal:iss=ISSUER|*"; leave callers out to allow every one'
            )
    for name in forward_headers:
        if not _HEADER.fullmatch(name):
            raise ConfigurationError(f"forward_headers: {name[:80]!r} is no header's name")


def may_call(policy: Policy, caller: Caller) -> bool:
    """Whether the caller may call the operation."""
    return not _missing(policy, caller) and _is_among(policy.callers, caller.scope)


def check_may_call(operation_type: str, policy: Policy, caller: Caller) -> None:
    """Check that the caller may call the operation.

    Raises:
        UnknownOperation: It may not.
    """
    if missing := _missing(policy, caller):
        raise UnknownOperation(
            f"Operation {operation_type[:80]!r} is not open to you: your token lacks the scope {', '.join(missing)}.",
            details={"required_scopes": list(policy.required_scopes)},
        )
    if not _is_among(policy.callers, caller.scope):
        raise UnknownOperation(f"Operation {operation_type[:80]!r} is not open to you.")


def given(policy: Policy, caller: Caller) -> Caller:
    """The caller as the operation is told of it: with the claims, the token and the headers that it asks for alone."""
    return caller.kept(claims=policy.caller_claims, token=policy.caller_token, headers=policy.forward_headers)


def needs_encryption(policy: Policy) -> str | None:
    """Which member of the policy has secrets of callers kept, which must be stored sealed; None where none has."""
    return "caller_token" if policy.caller_token else "forward_headers" if policy.forward_headers else None


def check_encrypted(operation_type: str, policy: Policy, *, encrypts: bool) -> None:
    """Check that callers' secrets are kept where payloads are encrypted only.

    Raises:
        ConfigurationError: They would be stored as they are.
    """
    if (member := needs_encryption(policy)) is not None and not encrypts:
        raise ConfigurationError(
            f"operation {operation_type!r}: {member} keeps secrets of callers, which needs an encryption key: set "
            "'keys' in [encryption] (`raincheck store new-key` makes one)"
        )


def too_late(caller: Caller, *, checkpoint: Any) -> bool:
    """Whether the operation must not begin, now or later: what it was given of its caller's token has expired.

    One that goes on from a checkpoint has begun with it.
    """
    return caller.expired and checkpoint is None


def check_fresh(caller: Caller, *, checkpoint: Any) -> None:
    """Check that it is not `too_late`.

    Raises:
        OperationFailed: It is.
    """
    if too_late(caller, checkpoint=checkpoint):
        raise OperationFailed("The caller's token expired before the operation ran: call again with a fresh one.")


def _missing(policy: Policy, caller: Caller) -> list[str]:
    # Who started the server, or runs in its process, has no token and needs none.
    if caller.scope == LOCAL:
        return []
    return [scope for scope in policy.required_scopes if scope not in caller.granted_scopes]


def _is_among(callers: Collection[str], scope: str) -> bool:
    # No scope holds a character that means something in a pattern: each part is percent-encoded.
    return not callers or any(fnmatchcase(scope, _only_stars(each)) for each in callers)


def _only_stars(pattern: str) -> str:
    return pattern.replace("[", "[[]").replace("?", "[?]")
