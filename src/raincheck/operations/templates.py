"""Text with `{parameter}` placeholders, parsed once; `{{` and `}}` are literal braces.

Where a declaration may name secrets, `${NAME}` is taken from the environment when it is parsed. What came from there is
plain text from then on: it is never parsed again, and never part of a message.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raincheck.domain.unicode_text import well_formed
from raincheck.errors import ConfigurationError
from raincheck.operations.validation_messages import capped

_TOKEN = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """The place of one parameter."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """Literal text and placeholders in turn.

    Attributes:
        parts: The pieces; literal ones may hold secrets, so they are not in the `repr`.
        source: What was declared, secrets still as `${NAME}`.
    """

    parts: tuple[str | Placeholder, ...] = field(repr=False)
    source: str

    @classmethod
    def parse(cls, text: str, *, place: str, parameters: Mapping[str, Any], environment: bool = False) -> Template:
        """Parse a declaration.

        Args:
            text: The text with its placeholders.
            place: Where it stands, for messages.
            parameters: The names that a placeholder may have.
            environment: Whether `${NAME}` is taken from the environment.

        Raises:
            ConfigurationError: A stray brace, an unknown parameter or a missing environment variable.
        """
        parts: list[str | Placeholder] = []
        end = 0
        for token in _TOKEN.finditer(text):
            parts.append(text[end : token.start()])
            end = token.end()
            if token[1] is not None and not environment:
                parts.append("$")
                parts.append(_placeholder(token[1], text, place, parameters))
            elif token[1] is not None:
                if token[1] not in os.environ:
                    raise ConfigurationError(
                        f"{place}: the environment has no variable {token[1]} (used as {token[0]})"
                    )
                value = os.environ[token[1]]
                if well_formed(value) != value:
                    raise ConfigurationError(f"{place}: the environment's {token[1]} is not UTF-8")
                parts.append(value)
            elif token[0] in ("{{", "}}"):
                parts.append(token[0][0])
            elif token[2] is None:
                raise ConfigurationError(
                    f"{place}: a lone {token[0]!r} in {capped(text, 80)!r}; write {token[0] * 2!r} for a literal brace"
                )
            else:
                parts.append(_placeholder(token[2], text, place, parameters))
        parts.append(text[end:])
        return cls(parts=_joined(parts), source=text)

    @property
    def names(self) -> frozenset[str]:
        """The parameters that it uses."""
        return frozenset(part.name for part in self.parts if isinstance(part, Placeholder))

    @property
    def only(self) -> str | None:
        """The parameter, where the whole text is one placeholder."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Placeholder):
            return self.parts[0].name
        return None

    @property
    def begins_with_placeholder(self) -> bool:
        """Whether a caller's value decides the first character."""
        return bool(self.parts) and isinstance(self.parts[0], Placeholder)

    def render(self, values: Mapping[str, Any], encode: Callable[[str], str] = str) -> str:
        """The text with the values in place; each is formatted, then passed through `encode`."""
        return "".join(
            part if isinstance(part, str) else encode(formatted(values[part.name])) if part.name in values else ""
            for part in self.parts
        )


def formatted(value: Any) -> str:
    """A value within text: strings as they are, everything else as JSON shows it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _placeholder(name: str, text: str, place: str, parameters: Mapping[str, Any]) -> Placeholder:
    if name not in parameters:
        known = ", ".join(parameters) or "none"
        raise ConfigurationError(
            f"{place}: {capped(text, 80)!r} names no parameter by {{{name}}}; parameters: {capped(known)}"
        )
    return Placeholder(name)


def _joined(parts: list[str | Placeholder]) -> tuple[str | Placeholder, ...]:
    joined: list[str | Placeholder] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return tuple(joined)
