"""SQL read from the `sql` folder of a store: a file of statements, each under a line `-- name: x`."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^--.*\n", re.MULTILINE)
_FRAGMENT = re.compile(r"\{(\w+)\}")


def sql_folder(store: str) -> Traversable:
    """The `sql` folder of a store, by the store's name."""
    return files("raincheck.stores") / store / "sql"


def read_sql(store: str, name: str) -> str:
    """The text of a file in the `sql` folder of a store."""
    return (sql_folder(store) / name).read_text(encoding="utf-8")


def load_statements(store: str, name: str) -> dict[str, str]:
    """The statements of a file by their names; `{x}` in one stands for the text of the statement `x` before it."""
    parts = _NAME.split(read_sql(store, name))
    statements: dict[str, str] = {}
    for key, text in zip(parts[1::2], parts[2::2], strict=True):
        plain = _COMMENT.sub("", text).strip().removesuffix(";")
        statements[key] = _FRAGMENT.sub(lambda match: statements[match[1]], plain)
    return statements
