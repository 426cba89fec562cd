"""Settings, and over them what a `Raincheck` was given by name."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from raincheck.config.loading import settings_of
from raincheck.config.program import names_object
from raincheck.config.settings import Settings
from raincheck.errors import ConfigurationError
from raincheck.operations.operation import Policy
from raincheck.ports.blob_store import BlobStore
from raincheck.ports.task_store import TaskStore

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def check_given(unknown: Iterable[str], **given: Any) -> None:
    """Check what a `Raincheck` was given by name, before any of it is used.

    Raises:
        ConfigurationError: A name is unknown, or a value cannot be what it stands for.
    """
    for name in unknown:
        close = difflib.get_close_matches(name, given, n=1)
        instead = f"did you mean {close[0]}?" if close else f"there are: {', '.join(given)}"
        raise ConfigurationError(f"Raincheck has no setting {name[:40]}; {instead}")
    for name, place in (("store", "[state]"), ("results", "[results]")):
        if isinstance(given[name], str) and (address := _ADDRESS.match(given[name])):
            raise ConfigurationError(
                f"Raincheck({name}=…) takes a path, not an address ({address[0]}…): "
                f"that goes into {place} of the settings, Raincheck(settings=…)."
            )
    patterns: list[Any] = list(given["tools"]) if isinstance(given["tools"], Collection) else [given["tools"]]  # pyright: ignore[reportUnknownArgumentType]
    fits = {
        "tools": all(isinstance(each, str) for each in patterns),
        "store": isinstance(given["store"], str | os.PathLike) or hasattr(given["store"], "capabilities"),
        "results": isinstance(given["results"], str | os.PathLike) or hasattr(given["results"], "purge"),
        "policy": isinstance(given["policy"], Policy),
        "settings": isinstance(given["settings"], Settings),
        "webhooks": isinstance(given["webhooks"], Mapping),
        "outlive_client": isinstance(given["outlive_client"], str) and names_object(given["outlive_client"]),
    }
    for name, wanted in _WANTED.items():
        value = given[name]
        if value is not None and not fits[name]:
            was = repr(value[:60]) if isinstance(value, str) else f"of type {type(value).__name__}"
            raise ConfigurationError(f"Raincheck({name}=…) takes {wanted}; it was {was}.")


_WANTED = {
    "tools": "a name pattern or a list of them",
    "store": "a path (SQLite) or a store",
    "results": "a folder or a blob store",
    "policy": "a raincheck.Policy",
    "settings": "what raincheck.load_settings gives",
    "webhooks": "a mapping of keys of [webhooks]",
    "outlive_client": "MODULE:RAINCHECK, by which a worker imports this object",
}


def in_memory(settings: Settings) -> Settings:
    """The settings with tasks run in this process, and nothing kept, queued or told outside it; the rest as it was."""
    nothing = Settings()
    places = {
        "state": settings.state.model_copy(update={"provider": "memory", "url": ""}),
        "execution": settings.execution.model_copy(
            update={
                "engine": "local",
                "queue_url": "",
                # A server may leave the work to its workers, and here are none.
                "max_concurrency": settings.execution.max_concurrency or nothing.execution.max_concurrency,
            }
        ),
        "webhooks": nothing.webhooks,
        "results": settings.results.model_copy(
            update={name: getattr(nothing.results, name) for name in ("blobs", "folder")}
        ),
    }
    return settings.model_copy(update=places)


def with_results_folder(settings: Settings, results: BlobStore | str | os.PathLike[str] | None) -> Settings:
    """The settings with large results in that folder, where one is given."""
    if not isinstance(results, str | os.PathLike):
        return settings
    kept = settings.results.model_copy(update={"blobs": "files", "folder": str(Path(results).absolute())})
    return settings.model_copy(update={"results": kept})


def with_store_path(settings: Settings, store: TaskStore | str | os.PathLike[str] | None) -> Settings:
    """The settings with the tasks in that SQLite file, where one is given."""
    if not isinstance(store, str | os.PathLike):
        return settings
    state = settings.state.model_copy(update={"provider": "sqlite", "url": str(Path(store).absolute())})
    return settings.model_copy(update={"state": state})


def with_webhooks(settings: Settings, given: Mapping[str, Any] | None) -> Settings:
    """The settings with these keys of [webhooks] over their own.

    Raises:
        ConfigurationError: One is wrong.
    """
    if given is None:
        return settings
    table = settings.webhooks.model_dump() | dict(given)
    return settings.model_copy(update={"webhooks": settings_of({"webhooks": table}, "Raincheck(webhooks=…)").webhooks})
