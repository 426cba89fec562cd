"""How an operation's notes are called."""

from __future__ import annotations

import hashlib

__all__ = ["note_key"]

_LONGEST = 128


def note_key(operation_type: str) -> str:
    """The key of an operation's note: its name, or a digest where a note cannot be called so."""
    if 0 < len(operation_type) <= _LONGEST and operation_type.isascii() and operation_type.isprintable():
        return operation_type
    return f"sha256:{hashlib.sha256(operation_type.encode()).hexdigest()}"
