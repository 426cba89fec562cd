"""The local worker of a configuration or of a Raincheck object, and what starts it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from raincheck._version import __version__
from raincheck.config.settings import Settings
from raincheck.runtime.local_worker import LocalWorker, WorkerFiles, generation_of


def worker_files(settings: Settings, target: str | None) -> WorkerFiles:
    """The files of the local worker of these settings; `target`: `MODULE:RAINCHECK`, None for a configuration.

    Raises:
        ConfigurationError: There is no place for the store's file.
    """
    return WorkerFiles.of(settings.database, f"{settings.file}\0{target or ''}")


def local_worker(settings: Settings, target: str | None = None) -> LocalWorker:
    """What starts the local worker that runs the tasks of these settings.

    Args:
        settings: The server's.
        target: `MODULE:RAINCHECK` of a server in Python, None where the settings' own file declares the operations.
    """
    command = ["worker", "run", target or str(_file(settings))]
    if settings.state.url and target is None:
        command += ["--state-url", str(settings.database)]
    log = settings.observability
    command += ["--log-level", log.log_level, "--log-format", log.log_format]
    return LocalWorker(
        worker_files(settings, target),
        command,
        generation=generation_of([__version__, target, settings.model_dump()], list(_code(settings, target))),
        environ=_environment(settings, target),
    )


def _file(settings: Settings) -> Path:
    assert settings.program_file is not None, "a served configuration is a file"
    # A link to the configuration has its own folder, where targets and relative paths start.
    named = settings.folder / Path(settings.source).name
    return named if named.resolve() == settings.program_file else settings.program_file


def _environment(settings: Settings, target: str | None) -> dict[str, str]:
    environ = dict(os.environ)
    if target is not None and settings.program_file is not None:
        # The worker imports what this process was started from, wherever it was started.
        above = target.partition(":")[0].count(".")
        folders = [str(each) for each in settings.program_file.parents[above : above + 1]]
        environ["PYTHONPATH"] = os.pathsep.join([*folders, *filter(None, [environ.get("PYTHONPATH")])])
    return environ


def _code(settings: Settings, target: str | None) -> Iterator[Path]:
    """The files of code that the worker runs: raincheck's own, and those that the targets name."""
    yield from Path(__file__).parents[1].rglob("*.py")
    if target is not None:
        if settings.program_file is not None:
            yield settings.program_file
        return
    for operation in settings.operations.values():
        module = getattr(operation, "target", "").partition(":")[0]
        path = settings.folder.joinpath(*module.split(".")) if module else None
        if path is not None and path.is_dir():
            yield from path.rglob("*.py")
        elif path is not None:
            yield path.with_suffix(".py")
