"""The scripts of the Redis store, from their files in raincheck/stores/lua, and commands as the server reads them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

_WITH = re.compile(r"^-- with: (\w+)$", re.MULTILINE)
_COMMENT = re.compile(r"^[ \t]*--.*\n", re.MULTILINE)
_NAMES = (
    "claimable",
    "count",
    "insert",
    "list",
    "records",
    "overdue",
    "purge",
    "put_record",
    "remove_record",
    "renew",
    "replace",
    "upgrade",
    "versions",
    "waiting",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """One script.

    Attributes:
        text: All of it, what it shares with others included.
        sha: What the server knows it by.
    """

    text: bytes
    sha: bytes

    def command(self, root: bytes, arguments: Sequence[bytes], *, by_text: bool = False) -> list[bytes]:
        """The command that runs it; `by_text` where the server does not know it (any more)."""
        how = (b"EVAL", self.text) if by_text else (b"EVALSHA", self.sha)
        return [*how, b"1", root, *arguments]


def _load(name: str) -> Script:
    own = _read(name)
    parts = ["common", *_WITH.findall(own)]
    text = _COMMENT.sub("", "".join([*map(_read, parts), own])).encode()
    return Script(text=text, sha=hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


def _read(name: str) -> str:
    return (files("raincheck.stores.redis") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


SCRIPTS = {name: _load(name) for name in _NAMES}
"""Every script by its name."""


def encode_command(words: Iterable[bytes]) -> bytes:
    """A command in the protocol's form (RESP)."""
    words = tuple(words)
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
