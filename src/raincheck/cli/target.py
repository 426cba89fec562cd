"""The target of a command: a configuration, or the Raincheck object of a Python server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raincheck.cli.options import is_object, settings_from
from raincheck.cli.stdout import others_on_stderr
from raincheck.errors import ConfigurationError, RaincheckError

if TYPE_CHECKING:
    from raincheck.config.settings import Settings
    from raincheck.mcp.host import TaskHost
    from raincheck.operations.operation import Policy
    from raincheck.ports.blob_store import BlobStore
    from raincheck.ports.task_store import TaskStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What a command is about.

    Attributes:
        settings: All settings; those of a Raincheck object are of its server.
        rc: The object, where one was named.
    """

    settings: Settings
    rc: TaskHost | None = None

    @property
    def store_is_given(self) -> bool:
        """Whether the program made its store itself, so that the settings say nothing of it."""
        return self.rc is not None and self.rc.store_is_given

    def new_store(self, settings: Settings | None = None) -> TaskStore:
        """Its store, not yet opened: as the settings have it, where the program did not make it itself.

        Raises:
            ConfigurationError: There is no place for it.
            MissingDependency: Its extra is not installed.
        """
        from raincheck.composition.adapters import make_store

        settings = settings or self.settings
        return make_store(settings) if self.rc is None else self.rc.new_store(settings)

    def new_blobs(self, store: TaskStore) -> BlobStore | None:
        """Where its large results are, not yet opened."""
        from raincheck.composition.adapters import make_blobs

        return make_blobs(self.settings, store) if self.rc is None else self.rc.new_blobs(self.settings, store)

    def place(self) -> tuple[str, str]:
        """Its store and its engine, as a person may be told of them."""
        from raincheck.composition.adapters import place_of

        return place_of(self.settings) if self.rc is None else self.rc.place()

    def refuse_memory(self, why: str) -> None:
        """See that its tasks can be reached from here.

        Raises:
            ConfigurationError: They exist inside the server only.
        """
        if self.rc is not None and not self.rc.store_is_shared:
            raise ConfigurationError(f"the tasks of a store in memory exist inside the server only: {why}")
        if self.settings.state.provider == "memory":
            raise ConfigurationError(f"'provider' in [state] of {self.settings.source} is \"memory\": {why}")

    async def policies(self) -> Mapping[str, Policy]:
        """The policies of its operations by name."""
        from raincheck.composition.operations import policy_of

        if self.rc is None:
            return {name: policy_of(self.settings, name) for name in self.settings.operations}
        await self.rc.adopt_all()
        return {name: each.policy for name, each in self.rc.operations.items()}


def target_from(config: str | None, *, state_url: str | None = None, **flags: Any) -> Target:
    """What `[CONFIG | MODULE:RAINCHECK]` names; see `settings_from` for the flags.

    Raises:
        ConfigurationError: Something is wrong in the configuration, or there is no such object.
        MissingDependency: The object needs an extra that is not installed.
    """
    if config is None or not is_object(config):
        return Target(settings=settings_from(config, state_url=state_url, **flags))
    if state_url is not None:
        raise click.UsageError("--state-url is for a configuration: a Raincheck object names its own store")
    from raincheck.composition.adapters import require_server
    from raincheck.operations.python.loading import load_object

    require_server()
    from raincheck.mcp.host import TaskHost

    with others_on_stderr():
        rc = load_object(config, Path.cwd())
    if not isinstance(rc, TaskHost):
        raise ConfigurationError(f"{config} is of type {type(rc).__name__}; allowed: a Raincheck object")
    return Target(settings=_with_flags(rc.settings_of_server(), config, flags), rc=rc)


def target_with_store(config: str | None, state_url: str | None) -> Target:
    """The same, for a command that looks at what is stored: where nothing is named, the one store of this folder.

    Raises:
        ConfigurationError: As in `target_from`; or several stores belong to this folder.
        RaincheckError: None does.
    """
    target = target_from(config, state_url=state_url)
    settings = target.settings
    unnamed = settings.program_file is None and settings.state.provider == "sqlite" and not settings.state.url
    if target.rc is not None or not unnamed:
        return target
    from raincheck.cli.known_stores import known_stores

    name_it = "name one by --state-url FILE, or its server by --config (a file, or MODULE:RAINCHECK)"
    folder = Path.cwd()
    found = known_stores(folder, settings.state_folder)
    if not found:
        place = settings.state_folder or "any place"
        raise RaincheckError(f"there is no task store at {place} of a program in {folder}: {name_it}")
    if len(found) > 1:
        listed = ", ".join(str(each) for each in found)
        raise ConfigurationError(f"{len(found)} task stores belong to this folder: {name_it}; there are: {listed}")
    if found[0].program is not None:
        click.echo(f"raincheck: {found[0]}", err=True)
    return target_from(config, state_url=str(found[0].file))


def _with_flags(settings: Settings, name: str, flags: Mapping[str, Any]) -> Settings:
    changes: dict[str, dict[str, Any]] = {}
    for flag, value in flags.items():
        section, _, key = flag.partition("__")
        if value is not None:
            changes.setdefault(section, {})[key] = value
    sections: dict[str, Any] = {
        section: getattr(settings, section).model_copy(update=update) for section, update in changes.items()
    }
    # What is wrong is to be found where the object is declared.
    source = name if settings.source == "the defaults" else settings.source
    return settings.model_copy(update={**sections, "source": source})
