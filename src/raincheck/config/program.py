"""Which program this is: tasks without a named place are kept in a file of their program's own."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raincheck.errors import ConfigurationError
from raincheck.ports.records import Record

if TYPE_CHECKING:
    from raincheck.ports.task_store import TaskStore

_NAMED_OBJECT = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")
OF_PROGRAM: Final = "program"
PROGRAM_KEY: Final = "mark"
"""The record of a store that says whose it is."""


def names_object(text: str) -> bool:
    """Whether it reads as `MODULE:RAINCHECK`."""
    return _NAMED_OBJECT.fullmatch(text) is not None


def calling_file() -> Path:
    """The file of the code that called into raincheck, resolved; at a prompt, a name in the working folder.

    The same however the program is started (`python`, `mcp run`, `raincheck worker`) and from wherever.
    """
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "raincheck":
        frame = frame.f_back
    return Path(frame.f_globals.get("__file__") or frame.f_code.co_filename).resolve()


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What tells programs apart.

    Attributes:
        file: The file that declares the server, resolved: a Python file or a configuration.
        server_name: The server's name in it, where it may declare several.
    """

    file: Path
    server_name: str = ""

    @property
    def mark(self) -> str:
        """A digest of both."""
        return hashlib.sha256(f"{self.file}\0{self.server_name}".encode("utf-8", "surrogatepass")).hexdigest()

    def store_file(self, folder: Path) -> Path:
        """The program's own file of tasks in that folder."""
        # The readable part is for people; the digest alone tells programs apart.
        readable = re.sub(r"[^A-Za-z0-9_-]+", "-", self.file.stem).strip("-")[:40] or "server"
        return folder / f"{readable}-{self.mark[:16]}.db"


async def claim_store(store: TaskStore, program: Program) -> None:
    """Mark an open store as that program's, or see that it is.

    Raises:
        ConfigurationError: It is another program's.
        StoreError: The store does not answer.
    """
    value = {"file": str(program.file), "server_name": program.server_name}
    if await store.put_record(Record(kind=OF_PROGRAM, key=PROGRAM_KEY, value=value)):
        return
    found = await store.get_record(OF_PROGRAM, PROGRAM_KEY)
    owner = program if found is None else program_of(found.value)
    if owner != program:
        raise ConfigurationError(
            f"the default file of this program holds the tasks of another one ({owner and owner.file}): name a file "
            "for this one's ('url' in [state], or Raincheck(store=PATH)); two programs that share a file on purpose "
            "both name it"
        )


def program_of(value: Any) -> Program | None:
    """The program that the value of a store's record names."""
    try:
        return Program(file=Path(value["file"]), server_name=str(value["server_name"]))
    except (KeyError, TypeError):
        return None
