"""SQL read from the named files beside this module: a file of statements, each under a line `-- name: x`."""

from __future__ import annotations

import re
from importlib.resources import files

__all__ = ["load_statements", "read_sql"]

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^--.*\n", re.MULTILINE)
_FRAGMENT = re.compile(r"\{(\w+)\}")


def read_sql(name: str) -> str:
    """The text of a file of `raincheck/stores/sql`."""
    return (files("raincheck.stores") / "sql" / name).read_text(encoding="utf-8")


def load_statements(name: str) -> dict[str, str]:
    """The statements of a file by their names; `{x}` in one stands for the text of the statement `x` before it."""
    parts = _NAME.split(read_sql(name))
    statements: dict[str, str] = {}
    for key, text in zip(parts[1::2], parts[2::2], strict=True):
        plain = _COMMENT.sub("", text).strip().removesuffix(";")
        statements[key] = _FRAGMENT.sub(lambda match: statements[match[1]], plain)
    return statements
