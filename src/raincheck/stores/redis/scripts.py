"""The scripts of the Redis store, from their files in `lua`, and commands as the server reads them."""

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
    "versions",
    "waiting",
)


STEPS: tuple[str, ...] = ()
"""What brings the keys from layout 1 to 2, from 2 to 3 …, in Lua; each runs as one script, which sets the layout. Redis
does not roll a failed script back, so a step may run again."""

LAYOUT = 1 + len(STEPS)
"""The layout of the keys that this release reads and writes."""

_UPGRADE = """
local stored = redis.call('GET', root .. 'layout')
if stored ~= '{before}' then
  return stored
end
{step}
redis.call('SET', root .. 'layout', '{after}', 'KEEPTTL')
return '{after}'
"""


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


def load(layout: int) -> dict[str, Script]:
    """Every script by its name, for keys of that layout."""
    return {name: _script(_read(name), layout) for name in _NAMES}


def upgrade(before: int, step: str) -> Script:
    """The script that takes a step from layout `before`; it answers with the layout of the keys after it."""
    return _script(_UPGRADE.format(before=before, after=before + 1, step=step), before + 1)


def _script(own: str, layout: int) -> Script:
    parts = ["common", *_WITH.findall(own)]
    whole = "".join([*map(_read, parts), own]).replace("{layout}", str(layout))
    text = _COMMENT.sub("", whole).encode()
    return Script(text=text, sha=hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


def _read(name: str) -> str:
    return (files("raincheck.stores.redis") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


SCRIPTS = load(LAYOUT)
"""Every script by its name."""


def encode_command(words: Iterable[bytes]) -> bytes:
    """A command in the protocol's form (RESP)."""
    words = tuple(words)
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
