"""Values of the caller in request templates: `{caller.subject}` and its like."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, cast

from raincheck.domain.caller import Caller
from raincheck.errors import ConfigurationError
from raincheck.operations.operation import Policy

_NAME = re.compile(r"(?<!\{)\{(caller\.[^{}]*)\}(?!\})")
_FIELDS: Final = ("scope", "subject", "issuer", "client_id", "client_name")
_SECRET: Final = ("caller.token", "caller.headers.")


class CallerValues:
    """What a declared request says of its caller.

    Args:
        operation_type: Whose request it is.
        policy: What the operation is given of its caller.
        parameters: The names of its parameters.
        headers: The declared headers: the only place for the caller's token and headers.
        elsewhere: Everything else with placeholders.

    Attributes:
        names: The placeholders.

    Raises:
        ConfigurationError: One is unknown, out of place, or not given to the operation.
    """

    def __init__(
        self,
        operation_type: str,
        policy: Policy,
        *,
        parameters: Collection[str],
        headers: Mapping[str, str],
        elsewhere: Any,
    ) -> None:
        self._place = f"operation {operation_type!r}"
        self._policy = policy
        for name in parameters:
            if name.startswith("caller."):
                raise ConfigurationError(f"{self._place}: a parameter must not be named {name[:80]!r}: callers set it")
        in_headers, others = _names(list(headers.values())), _names(elsewhere)
        for name in sorted(others):
            if name.startswith(_SECRET):
                raise ConfigurationError(f"{self._place}: {{{name[:80]}}} may stand in headers only")
        self.names = in_headers | others
        for name in sorted(self.names):
            self._check(name)

    @property
    def secret(self) -> bool:
        """Whether the request holds a secret of its caller: it goes to the declared server alone."""
        return any(name.startswith(_SECRET) for name in self.names)

    def of(self, caller: Caller) -> dict[str, Any]:
        """What stands for each placeholder; None where nothing is known."""
        return {name: _value(name.split(".", 2)[1:], caller) for name in self.names}

    def _check(self, name: str) -> None:
        kind, _, member = name.removeprefix("caller.").partition(".")
        policy = self._policy
        if kind in _FIELDS and not member:
            return
        if kind == "token" and not member:
            needs = None if policy.caller_token else "caller_token = true"
        elif kind == "claims" and member:
            needs = None if member in policy.caller_claims else f'"{member}" in caller_claims'
        elif kind == "headers" and member:
            asked = {each.lower() for each in policy.forward_headers}
            needs = None if member.lower() in asked else f'"{member}" in forward_headers'
        else:
            allowed = ", ".join([*(f"caller.{field}" for field in _FIELDS), "caller.claims.NAME", "caller.token"])
            raise ConfigurationError(
                f"{self._place}: there is no {{{name[:80]}}}; allowed: {allowed}, caller.headers.NAME"
            )
        if needs is not None:
            raise ConfigurationError(f"{self._place}: {{{name[:80]}}} needs {needs[:120]}")


def _value(path: list[str], caller: Caller) -> Any:
    match path:
        case ["token"]:
            return caller.token
        case ["claims", name]:
            return caller.claims.get(name)
        case ["headers", name]:
            return caller.headers.get(name.lower())
        case _:
            return getattr(caller, path[0]) or None


def _names(declared: Any) -> frozenset[str]:
    return frozenset(name for text in _texts(declared) for name in _NAME.findall(text))


def _texts(declared: Any) -> Iterator[str]:
    if isinstance(declared, str):
        yield declared
    elif isinstance(declared, Mapping):
        for name, member in cast("Mapping[str, Any]", declared).items():
            yield name
            yield from _texts(member)
    elif isinstance(declared, list | tuple):
        for item in cast("list[Any]", declared):
            yield from _texts(item)
