"""Which program this is: tasks whose place nobody named are kept in a file of their program's own."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raincheck.errors import ConfigurationError
from raincheck.notes import Note

if TYPE_CHECKING:
    from raincheck.store import TaskStore

__all__ = ["calling_file", "claim_store", "file_of_program", "program_mark"]

_KIND: Final = "program"
_KEY: Final = "mark"


def calling_file() -> Path:
    """The file of the code that called into raincheck, resolved; at a prompt, a name in the working folder.

    The same however the program is started (`python`, `mcp run`, `raincheck worker`) and from wherever.
    """
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "raincheck":
        frame = frame.f_back
    return Path(frame.f_globals.get("__file__") or frame.f_code.co_filename).resolve()


def program_mark(file: Path, server_name: str = "") -> str:
    """What tells programs apart: a digest of the file that declares the server, and of the server's name in it."""
    return hashlib.sha256(f"{file}\0{server_name}".encode("utf-8", "surrogatepass")).hexdigest()


def file_of_program(folder: Path, file: Path, server_name: str = "") -> Path:
    """The program's own file of tasks in that folder."""
    # The readable part is for people; the digest alone tells programs apart.
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem).strip("-")[:40] or "server"
    return folder / f"{readable}-{program_mark(file, server_name)[:16]}.db"


async def claim_store(store: TaskStore, mark: str) -> None:
    """Mark an open store as that program's, or see that it is.

    Raises:
        ConfigurationError: It is another program's.
        StoreError: The store does not answer.
    """
    if await store.put_note(Note(kind=_KIND, key=_KEY, value=mark)):
        return
    found = await store.get_note(_KIND, _KEY)
    if found is not None and found.value != mark:
        raise ConfigurationError(
            "the default file of this program holds the tasks of another one: name a file for this one's "
            "('url' in [state], or Raincheck(store=PATH)); two programs that share a file on purpose both name it"
        )
