"""The files of tasks that belong to a folder: of programs in it, wherever they are kept, and those that lie in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from raincheck.config.program import OF_PROGRAM, PROGRAM_KEY, Program, program_of
from raincheck.stores.sqlite.peek import is_store, record_value

_UNNAMED = "tasks.db"
_MOST_LOOKED_AT = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownStore:
    """A file of tasks, and the program that it is bound to; None: its place was named."""

    file: Path
    program: Program | None = None

    def __str__(self) -> str:
        if self.program is None:
            return str(self.file)
        server = f" ({self.program.server_name})" if self.program.server_name else ""
        return f"{self.file} of {self.program.file.name}{server}"


def known_stores(folder: Path, state_folder: Path | None) -> list[KnownStore]:
    """Those of that folder and what is below it, by the user's state folder; and the files of tasks in it."""
    here = folder.resolve()
    found = [KnownStore(file=file) for file in _files(here) if is_store(file)]
    for file in _files(state_folder) if state_folder is not None else ():
        program = program_of(record_value(file, OF_PROGRAM, PROGRAM_KEY))
        if program is not None and program.file.is_relative_to(here):
            found.append(KnownStore(file=file, program=program))
        elif program is None and file.name == _UNNAMED and is_store(file):
            found.append(KnownStore(file=file))
    return found


def _files(folder: Path) -> Iterable[Path]:
    try:
        return sorted(file for file in folder.glob("*.db") if file.is_file())[:_MOST_LOOKED_AT]
    except OSError:
        return ()
