"""Redaction of file paths: they name the server's user, folders and software."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping
from typing import Any

_PATH = re.compile(r"""(?<![\w/.:~-])/([\w.@+~-]+)/[^\s'"`<>|;,()\[\]{}]*|\b[A-Za-z]:\\[^\s'"`<>|;,()\[\]{}]+""")


def without_folders(text: str, arguments: Mapping[str, Any] | None = None) -> str:
    """The text with each path of this machine cut to its last part: `…/tasks.db`.

    Args:
        text: A message.
        arguments: What the caller sent: a path that stands there is no news to it, and stays.
    """

    sent = functools.cache(lambda: json.dumps(arguments, ensure_ascii=False, default=str) if arguments else "")

    def cut(found: re.Match[str]) -> str:
        path = found[0]
        # Not every text with slashes is a path: /v1/users is an address.
        if (found[1] is not None and found[1] not in _top()) or path in sent():
            return path
        name = re.split(r"[/\\]", path.rstrip("/\\:."))[-1]
        return f"…/{name}" + (path[-1] if path[-1] in ":." else "")

    return _PATH.sub(cut, text)


@functools.cache
def _top() -> frozenset[str]:
    try:
        return frozenset(os.listdir("/"))
    except OSError:
        return frozenset({"etc", "home", "opt", "root", "srv", "tmp", "usr", "var"})
