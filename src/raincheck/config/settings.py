"""Settings: what `raincheck.toml` may say, with types, bounds and defaults; frozen, validated once.

`raincheck.config.loading.load_settings` fills them from the file, the environment and the flags. The descriptions are
the texts of docs/configuration.md; a test holds the two together.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from raincheck.config.program import Program
from raincheck.config.section import Section
from raincheck.config.sections.auth import AuthSettings
from raincheck.config.sections.encryption import EncryptionSettings
from raincheck.config.sections.execution import ExecutionSettings, WorkerSettings, too_long
from raincheck.config.sections.inherit import named_variables
from raincheck.config.sections.limits import BreakerSettings, LimitsSettings
from raincheck.config.sections.operations import (
    ByKind,
    HttpSettings,
    OperationSettings,
)
from raincheck.config.sections.results import ResultsSettings
from raincheck.config.sections.server import ServerSettings
from raincheck.config.sections.state import URL_FORMS, StateSettings, is_address
from raincheck.config.sections.upstream_jobs import PollSettings
from raincheck.config.sections.webhooks import WebhookSettings, WebhooksSettings
from raincheck.errors import ConfigurationError

RESERVED_NAMES = frozenset(
    {
        "initiate_background_task",
        "resolve_task_status",
        "cancel_background_task",
        "provide_task_input",
        "list_background_tasks",
    }
)
"""The handle tools (design.md §4): no operation may take their names."""

Patience = Annotated[float, Field(ge=1, le=86400)]

_OPERATION_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class PollingSettings(Section):
    """`[polling]`: how drivers poll, and the hints that the server gives."""

    initial_interval_ms: int = Field(default=1000, ge=1, le=3_600_000, description="The first interval.")
    max_interval_ms: int = Field(default=30000, ge=1, le=3_600_000, description="The longest interval.")
    backoff_multiplier: float = Field(default=2.0, ge=1, le=100, description="What each interval is multiplied with.")
    max_attempts: int = Field(default=20, ge=1, le=1_000_000, description="How often a driver asks before it gives up.")
    learn: bool = Field(
        default=True,
        description="Whether hints follow an operation's own history once ten of its tasks have ended, within "
        "`initial_interval_ms` and `max_interval_ms`; else they go by the three settings above.",
    )
    hold_seconds: float = Field(
        default=3,
        ge=0,
        le=300,
        description="How long `resolve_task_status` holds its answer where the task goes on, the caller names no "
        "`wait_seconds` and nothing is known of the client's patience; 0: it answers at once.",
    )
    max_hold_seconds: float = Field(
        default=25,
        ge=0,
        le=300,
        description="How long it holds its answer at the most: for a client that is known to be patient, or a caller "
        "that asks for it by `wait_seconds`.",
    )
    patience: Mapping[str, Patience] = Field(
        default_factory=dict[str, float],
        description="How many seconds a client waits for an answer before it gives up, by the name it gives itself "
        '(`clientInfo`), as `{"my-agent" = 120}`; over what is known of it (docs/which-client.md) or was learned.',
    )
    calls_per_second: float = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="How many calls a second a caller (a scope) may make on this server; beyond it they are refused "
        "with `rate_limited` and `retry_after_seconds`; 0: any number. Callers without authentication are one scope.",
    )
    call_burst: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        description="How many may come at once, where `calls_per_second` is set.",
    )

    @model_validator(mode="after")
    def _intervals_fit(self) -> PollingSettings:
        if self.initial_interval_ms > self.max_interval_ms:
            raise ValueError(
                f"initial_interval_ms ({self.initial_interval_ms}) is above max_interval_ms ({self.max_interval_ms})"
            )
        if "hold_seconds" in self.model_fields_set and self.hold_seconds > self.max_hold_seconds:
            raise ValueError(
                f"hold_seconds ({self.hold_seconds:g}) is above max_hold_seconds ({self.max_hold_seconds:g})"
            )
        return self


class ObservabilitySettings(Section):
    """`[observability]`: logs and metrics."""

    metrics_prefix: str = Field(
        default="mcp_async",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Starts the name of every metric; this release has none yet.",
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        default="info", description="The least severe lines that are logged (to stderr)."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description='The form of the log: lines for people, or "json": one object on each line.'
    )
    log_tasks: bool = Field(
        default=True,
        description="Whether each task has a line when it is accepted, started and ended; failures always have.",
    )
    alert_on_failure_rate: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="How many of an operation's last hundred tasks may fail, as a share, before a warning is logged.",
    )


class Settings(Section):
    """Everything that can be set, and where it came from.

    Attributes:
        folder: The configuration file's folder (the working folder without one): targets are imported from it, and
            relative paths start there.
        source: The file's name as messages show it, "the defaults" without one.
        program_file: What the default store's file is bound to: the configuration file, or the file that declares a
            library's server; None: neither.
        server_name: The name of a library's server, of which a program may have several.
        state_folder: The user's state folder, where the store's file is by default; None where there is no home.
    """

    server: ServerSettings = ServerSettings()
    state: StateSettings = StateSettings()
    execution: ExecutionSettings = ExecutionSettings()
    worker: WorkerSettings = WorkerSettings()
    polling: PollingSettings = PollingSettings()
    limits: LimitsSettings = LimitsSettings()
    webhooks: WebhooksSettings = WebhooksSettings()
    encryption: EncryptionSettings = EncryptionSettings()
    results: ResultsSettings = ResultsSettings()
    observability: ObservabilitySettings = ObservabilitySettings()
    operations: Mapping[str, Annotated[OperationSettings, ByKind()]] = Field(
        default_factory=dict[str, OperationSettings]
    )
    folder: Path = Field(default_factory=Path.cwd)
    source: str = "the defaults"
    program_file: Path | None = None
    server_name: str = ""
    state_folder: Path | None = Field(default_factory=lambda: user_state_folder(os.environ))

    def placed(self, path: str, key: str) -> Path:
        """A path of the configuration, absolute: it starts in its folder, or in a home folder (`~`).

        Raises:
            ConfigurationError: There is no such home folder; the message names the key.
        """
        try:
            return self.folder.absolute() / Path(path).expanduser()
        except RuntimeError:
            home = Path(path).parts[0][:40]
            raise ConfigurationError(f"{key} of {self.source}: there is no home folder {home!a}") from None

    @property
    def file(self) -> str:
        """The whole path of the file that they are of, or what stands in its place."""
        return str(self.program_file or self.source)

    @property
    def queue_url(self) -> str:
        """The address of the engine's queue: its own, or the store's."""
        return self.execution.queue_url or self.state.url

    @property
    def database(self) -> Path:
        """The file of the SQLite store, absolute.

        Raises:
            ConfigurationError: There is no home folder: the user's, or the one that `state.url` begins with.
        """
        if self.state.url:
            return self.placed(self.state.url, "'url' in [state]")
        if self.state_folder is None:
            raise ConfigurationError("there is no home folder to keep tasks in: set 'url' in [state], a file's path")
        if self.program_file is None:
            return self.state_folder / "tasks.db"
        return Program(file=self.program_file, server_name=self.server_name).store_file(self.state_folder)

    @property
    def program(self) -> Program | None:
        """This program, whose mark the store's file is to carry; None where the place was named."""
        if self.state.provider != "sqlite" or self.state.url or self.program_file is None:
            return None
        return Program(file=self.program_file, server_name=self.server_name)

    def outlives(self, *, stdio: bool) -> bool:
        """Whether a server of this transport leaves its tasks to a local worker."""
        wished = self.execution.outlive_client
        fits = self.state.provider == "sqlite" and self.execution.engine == "local"
        can = fits and self.execution.max_concurrency > 0 and sys.platform != "win32"
        return can and (stdio if wished == "auto" else wished)

    @model_validator(mode="after")
    def _can_outlive(self) -> Settings:
        if self.execution.outlive_client is True:
            for key, value, wanted in (
                ("'provider' in [state]", self.state.provider, "sqlite"),
                ("'engine' in [execution]", self.execution.engine, "local"),
            ):
                if value != wanted:
                    raise ValueError(f'{key} must be "{wanted}" for outlive_client = true: a local worker needs it')
            if self.execution.max_concurrency == 0:
                raise ValueError("'max_concurrency' in [execution] must not be 0 for outlive_client = true")
            if sys.platform == "win32":
                raise ValueError("'outlive_client' in [execution] cannot be true on Windows, which has no local worker")
        return self

    @model_validator(mode="after")
    def _engine_fits(self) -> Settings:
        engine, url = self.execution.engine, self.execution.queue_url
        if engine == "local":
            if url:
                raise ValueError("'queue_url' in [execution] must be empty for the engine \"local\"")
            return self
        forms = URL_FORMS[engine]
        if not (url or self.state.url).startswith(forms):
            allowed = " or ".join(forms)
            raise ValueError(f"'queue_url' in [execution] must begin with {allowed} for the engine \"{engine}\"")
        if not is_address(url):
            raise ValueError("'queue_url' in [execution] is no valid address: its host is malformed")
        if self.state.provider == "memory":
            raise ValueError(f'\'provider\' in [state] must not be "memory" for the engine "{engine}"')
        return self

    @model_validator(mode="after")
    def _blobs_fit(self) -> Settings:
        blobs, provider = self.results.blobs, self.state.provider
        if blobs in ("postgres", "redis") and provider != blobs:
            raise ValueError(f"'blobs' in [results] can be \"{blobs}\" only where 'provider' in [state] is")
        if blobs == "files" and not self.results.folder and provider != "sqlite":
            raise ValueError(
                "'folder' in [results] must be set for blobs = \"files\", unless 'provider' in [state] is \"sqlite\""
            )
        return self

    @model_validator(mode="after")
    def _inherited_are_no_secrets(self) -> Settings:
        tables = {"[execution]": self.execution.inherit}
        for name, operation in self.operations.items():
            if not isinstance(operation, HttpSettings) and operation.inherit is not None:
                tables[table_name("operations", name)] = operation.inherit
        if any(tables.values()):
            secret = named_variables(self.model_dump())
            for table, names in tables.items():
                for name in names:
                    if name in secret:
                        raise ValueError(
                            f"'inherit' in {table} names {name}, which a ${{{name}}} of this configuration stands "
                            f'for and no child inherits; hand it to one operation by env = {{{name} = "${{{name}}}"}}'
                        )
        return self

    @model_validator(mode="after")
    def _whole_fits(self) -> Settings:
        for name, operation in self.operations.items():
            table = table_name("operations", name)
            if not _OPERATION_TYPE.fullmatch(name):
                raise ValueError(f"{table} is no valid tool name: 1 to 64 of the characters A-Z a-z 0-9 _ . -")
            if name in RESERVED_NAMES:
                raise ValueError(f"{table} has the name of a handle tool of raincheck; choose another one")
            wished = operation.default_max_wait_seconds
            own_ceiling = operation.max_wait_ceiling_seconds
            ceiling = self.execution.max_wait_ceiling_seconds if own_ceiling is None else own_ceiling
            if wished is not None and wished > ceiling:
                raise ValueError(f"{too_long(wished, ceiling)} in {table}")
            if operation.webhook is not None and not (operation.webhook.secrets or self.webhooks.secrets):
                inner = table_name("operations", name, "webhook")
                raise ValueError(f"'secrets' is missing in {inner} and in [webhooks]: every message is signed")
        return self


SECTION_MODELS: Mapping[str, type[Section]] = {
    "server": ServerSettings,
    "state": StateSettings,
    "execution": ExecutionSettings,
    "worker": WorkerSettings,
    "polling": PollingSettings,
    "limits": LimitsSettings,
    "webhooks": WebhooksSettings,
    "encryption": EncryptionSettings,
    "results": ResultsSettings,
    "observability": ObservabilitySettings,
}
"""The tables with fixed names; `[operations.NAME]` comes beside them."""

NESTED_MODELS: Mapping[tuple[str, str], type[Section]] = {("server", "auth"): AuthSettings}
"""The tables within those, which need not be there."""

OPERATION_TABLES: Mapping[str, type[Section]] = {
    "breaker": BreakerSettings,
    "poll": PollSettings,
    "webhook": WebhookSettings,
}
"""The tables within an operation's table, `[operations.NAME.…]`, which need not be there."""


def user_state_folder(environ: Mapping[str, str], platform: str = sys.platform) -> Path | None:
    """Where this platform keeps a user's state: raincheck's folder in it, or None where the user has no home."""
    try:
        if platform == "win32":
            local = environ.get("LOCALAPPDATA")
            return (Path(local) if local else Path.home() / "AppData" / "Local") / "raincheck"
        if platform == "darwin":
            return Path.home() / "Library" / "Application Support" / "raincheck"
        # The XDG base directory specification: a relative path is to be ignored.
        state = Path(environ.get("XDG_STATE_HOME") or "")
        return (state if state.is_absolute() else Path.home() / ".local" / "state") / "raincheck"
    except RuntimeError:
        return None


def table_name(*parts: str) -> str:
    """A table's name as TOML writes it, in its brackets."""
    quoted = (part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{ascii(part[:70])[1:-1]}"' for part in parts)
    return f"[{'.'.join(quoted)}]"
