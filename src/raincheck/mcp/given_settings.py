"""Settings, and over them what a `Raincheck` was given by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raincheck.blobs import BlobStore
from raincheck.config import Settings
from raincheck.config_sources import settings_of
from raincheck.operations.operation import Operation
from raincheck.store import TaskStore

__all__ = ["in_memory", "telling_nobody", "with_results_folder", "with_store_path", "with_webhooks"]


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


def telling_nobody(operations: Callable[[str], Operation | None]) -> Callable[[str], Operation | None]:
    """These operations by name, without their webhooks."""

    def operation(name: str) -> Operation | None:
        found = operations(name)
        if found is None or found.policy.webhook is None:
            return found
        return replace(found, policy=replace(found.policy, webhook=None))

    return operation


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
