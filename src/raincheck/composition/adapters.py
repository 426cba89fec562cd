"""Composition of adapters from settings: imports only those that are configured."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
from typing import TYPE_CHECKING

from raincheck.errors import ConfigurationError
from raincheck.extras import missing_extra
from raincheck.polling.advisor import PollAdvisor
from raincheck.polling.schedule import BackoffLadder

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from raincheck.config.settings import PollingSettings, Settings
    from raincheck.encryption.cipher import PayloadCipher
    from raincheck.encryption.plain_payloads import PlainTasks
    from raincheck.polling.hints import Lookup
    from raincheck.ports.blob_store import BlobStore
    from raincheck.ports.engine import EngineFactory
    from raincheck.ports.task_store import Companion, TaskStore
    from raincheck.ports.tls import Tls
    from raincheck.runtime.service import ServiceSettings

_OLDEST_MCP = (2, 3)


def make_store(settings: Settings) -> TaskStore:
    """The task store that the settings name, not yet opened; SQLite's default folder is made if it is missing.

    Raises:
        ConfigurationError: There is no place for the store's file, or a file or a key that is named is not there.
        MissingDependency: The store's extra is not installed.
    """
    return encrypting(settings, _plain_store(settings))


def encrypting(settings: Settings, store: TaskStore) -> TaskStore:
    """The store, sealing payloads where the settings name keys.

    Raises:
        ConfigurationError: A key is missing, or is none.
        MissingDependency: The extra is not installed.
    """
    cipher = _cipher(settings)
    if cipher is None:
        return store
    from raincheck.encryption.task_store import EncryptedTaskStore

    return EncryptedTaskStore(store, cipher, accept_plain=settings.encryption.accept_plain)


async def close_to_plain(store: TaskStore) -> PlainTasks:
    """Close an open store with keys to plain payloads, where no task has one any more; those that have."""
    from raincheck.encryption.plain_payloads import closed
    from raincheck.encryption.task_store import EncryptedTaskStore

    assert isinstance(store, EncryptedTaskStore)
    return await closed(store)


def _cipher(settings: Settings) -> PayloadCipher | None:
    if not settings.encryption.keys:
        return None
    require_extra("cryptography", "encryption", "[encryption]")
    from raincheck.encryption.cipher import PayloadCipher

    try:
        keys = settings.encryption.key_bytes(os.environ)
    except ConfigurationError as error:
        raise ConfigurationError(f"'keys' in [encryption] of {settings.source}: {error.message}") from None
    return PayloadCipher(keys)


def _plain_store(settings: Settings) -> TaskStore:
    state = settings.state
    match state.provider:
        case "memory":
            from raincheck.stores.memory.store import MemoryStore

            return MemoryStore()
        case "sqlite":
            return _sqlite(settings)
        case "postgres":
            for module in ("psycopg", "psycopg_pool"):
                require_extra(module, "postgres", 'the store "postgres"')
            from raincheck.stores.postgres.store import PostgresStore

            return PostgresStore(
                state.url,
                schema=state.schema_name,
                pool_size=state.pool_size,
                timeout_seconds=state.timeout_seconds,
                tls=_tls(settings),
                migrate=state.migrate == "auto",
                companion=_job_beside_the_task(settings),
            )
        case "redis":
            require_extra("redis", "redis", 'the store "redis"')
            from raincheck.stores.redis.store import RedisStore

            return RedisStore(
                state.url,
                key_prefix=state.key_prefix,
                pool_size=state.pool_size,
                timeout_seconds=state.timeout_seconds,
                tls=_tls(settings),
                migrate=state.migrate == "auto",
            )
        case "dynamodb":
            require_extra("aiobotocore", "dynamodb", 'the store "dynamodb"')
            from raincheck.stores.dynamodb.store import DynamoDBStore

            return DynamoDBStore(
                state.table,
                region=state.region,
                endpoint=state.url,
                pool_size=state.pool_size,
                timeout_seconds=state.timeout_seconds,
                tls=_tls(settings),
                migrate=state.migrate == "auto",
            )


def make_blobs(settings: Settings, store: TaskStore, *, given: bool = False) -> BlobStore | None:
    """Where large results are kept, not yet opened, sealed where the settings name keys; None: in their tasks.

    Args:
        store: The store that `make_store` made, or (`given`) one that the settings do not describe; sealing itself.

    Raises:
        ConfigurationError: There is no place for the folder, or the settings are about another store.
        MissingDependency: An extra is not installed.
    """
    state, results = settings.state, settings.results
    own = {"sqlite": "files", "postgres": "postgres", "redis": "redis"}
    blobs = results.blobs if results.blobs != "auto" else "store" if given else own.get(state.provider, "store")
    if given and (blobs in ("postgres", "redis") or (blobs == "files" and not results.folder)):
        raise ConfigurationError(
            f"'blobs' in [results] of {settings.source} cannot be \"{blobs}\" for a store that is given"
        )
    if blobs == "task":
        return None
    if blobs == "store":
        from raincheck.blob_stores.records import RecordBlobStore

        # Its records are sealed where its tasks are.
        return RecordBlobStore(store)
    plain, cipher = _plain_blobs(settings, blobs), _cipher(settings)
    if cipher is None:
        return plain
    from raincheck.encryption.blob_store import EncryptedBlobStore

    return EncryptedBlobStore(plain, cipher)


def _plain_blobs(settings: Settings, blobs: str) -> BlobStore:
    state, results = settings.state, settings.results
    match blobs:
        case "files":
            from raincheck.blob_stores.files import FileBlobs

            if results.folder:
                return FileBlobs(settings.placed(results.folder, "'folder' in [results]"))
            return FileBlobs(settings.database.with_name(f"{settings.database.name}.results"))
        case "postgres":
            from raincheck.blob_stores.postgres import PostgresBlobs

            return PostgresBlobs(
                state.url, schema=state.schema_name, timeout_seconds=state.timeout_seconds, tls=_tls(settings)
            )
        case "redis":
            from raincheck.blob_stores.redis import RedisBlobs

            return RedisBlobs(
                state.url, key_prefix=state.key_prefix, timeout_seconds=state.timeout_seconds, tls=_tls(settings)
            )
        case "s3":
            require_extra("aiobotocore", "s3", 'blobs = "s3"')
            from raincheck.blob_stores.s3 import S3Blobs

            return S3Blobs(
                results.bucket, prefix=results.prefix, region=results.region, endpoint=results.endpoint.rstrip("/")
            )
        case _:
            raise AssertionError(blobs)


def make_engine(settings: Settings) -> EngineFactory:
    """What makes the engine that the settings name.

    Raises:
        MissingDependency: The engine's extra is not installed.
    """
    execution = settings.execution
    match execution.engine:
        case "local":
            from raincheck.engines.local import local_engine

            return local_engine
        case "docket":
            require_extra("docket", "docket", 'the engine "docket"')
            from raincheck.engines.docket.engine import docket_engine

            return docket_engine(
                settings.queue_url,
                name=execution.queue_name,
                reconcile_seconds=execution.reconcile_seconds,
                tls=_tls(settings),
            )
        case "procrastinate":
            require_extra("procrastinate", "procrastinate", 'the engine "procrastinate"')
            from raincheck.engines.procrastinate.engine import procrastinate_engine

            return procrastinate_engine(
                settings.queue_url,
                name=execution.queue_name,
                reconcile_seconds=execution.reconcile_seconds,
                tls=_tls(settings),
                jobs_come_with_tasks=_jobs_come_with_tasks(settings),
            )


async def prepare_queue(settings: Settings) -> bool:
    """Make or upgrade the schema of the engine's queue; whether it has one.

    Raises:
        StoreUnavailable: Its server does not answer, or a right is missing.
        ConfigurationError: It is of a newer version than the one installed here.
        MissingDependency: The engine's extra is not installed.
    """
    if settings.execution.engine != "procrastinate":
        return False
    require_extra("procrastinate", "procrastinate", 'the engine "procrastinate"')
    from raincheck.engines.procrastinate.engine import make_queue_schema

    await make_queue_schema(settings.queue_url, _tls(settings))
    return True


def service_settings(settings: Settings) -> ServiceSettings:
    """How a process takes part, as the settings have it.

    Raises:
        ConfigurationError: A webhook's secret is not in the environment.
        MissingDependency: The extra that signs webhooks is not installed.
    """
    from raincheck.runtime.service import ServiceSettings
    from raincheck.webhooks.policy import WebhookRules

    if settings.webhooks.secrets:
        require_signing()

    execution, limits = settings.execution, settings.limits
    return ServiceSettings(
        max_concurrency=execution.max_concurrency,
        lease_seconds=execution.lease_seconds,
        drain_seconds=execution.drain_seconds,
        max_parameters_bytes=execution.max_parameters_bytes,
        max_pending=limits.max_pending,
        max_pending_per_scope=limits.max_pending_per_scope
        if "max_pending_per_scope" in limits.model_fields_set
        else None,
        max_running_per_scope=limits.max_running_per_scope,
        alert_on_failure_rate=settings.observability.alert_on_failure_rate,
        public_url=settings.server.public_url,
        callback_secret=settings.server.callback_secret,
        program=settings.program,
        webhooks=WebhookRules.parsed(place=f"[webhooks] of {settings.source}", **dict(settings.webhooks)),
    )


def require_signing() -> None:
    """Check that what sends and signs webhooks is installed.

    Raises:
        MissingDependency: It is not.
    """
    require_extra("standardwebhooks", "webhooks", "webhooks")
    require_extra("httpx2", "webhooks", "webhooks")


def place_of(settings: Settings) -> tuple[str, str]:
    """The store and the engine as they may be shown: what each is and where, without user and password."""
    from raincheck.config.sections.state import public_url

    state, execution = settings.state, settings.execution
    match state.provider:
        case "memory":
            store = "memory"
        case "sqlite":
            store = f"sqlite {settings.database}"
        case "dynamodb":
            store = f"dynamodb {state.table} at {public_url(state.url) if state.url else state.region or 'AWS'}"
        case "postgres" | "redis":
            store = f"{state.provider} {public_url(state.url)}"
    if execution.engine == "local":
        return store, "local"
    return store, f"{execution.engine} {execution.queue_name} at {public_url(settings.queue_url)}"


def require_extra(module: str, extra: str, what: str) -> None:
    """Check that an extra is installed.

    Raises:
        MissingDependency: It is not; the message names the command that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise missing_extra(f"{what} needs {module}", extra)


def _jobs_come_with_tasks(settings: Settings) -> bool:
    same = settings.queue_url == settings.state.url
    return settings.execution.engine == "procrastinate" and settings.state.provider == "postgres" and same


def _job_beside_the_task(settings: Settings) -> Companion | None:
    if not _jobs_come_with_tasks(settings):
        return None
    require_extra("procrastinate", "procrastinate", 'the engine "procrastinate"')
    from raincheck.engines.procrastinate.engine import job_statement

    return job_statement(settings.execution.queue_name)


def _tls(settings: Settings) -> Tls | None:
    from raincheck.ports.tls import Tls

    state = settings.state
    names = {"tls_ca": state.tls_ca, "tls_cert": state.tls_cert, "tls_key": state.tls_key}
    paths = {key: str(settings.placed(value, f"{key!r} in [state]")) if value else None for key, value in names.items()}
    for key, path in paths.items():
        if path is not None and not os.path.isfile(path):
            raise ConfigurationError(f"{key!r} in [state] of {settings.source}: there is no file {path}")
    tls = Tls(ca=paths["tls_ca"], cert=paths["tls_cert"], key=paths["tls_key"])
    return tls if tls.ca or tls.cert else None


def _sqlite(settings: Settings) -> TaskStore:
    from raincheck.stores.sqlite.store import SqliteStore

    path = settings.database
    try:
        if not settings.state.url:
            # Tasks hold what callers sent: the folder is the user's alone.
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not path.parent.is_dir():
            raise ConfigurationError(f"'url' in [state] of {settings.source}: there is no folder {path.parent}")
        if path.exists() and not path.is_file():
            kind = "a folder, not a file" if path.is_dir() else "a device or a pipe, not a file"
            raise ConfigurationError(f"'url' in [state] of {settings.source}: {path} is {kind}")
    except OSError as error:
        raise ConfigurationError(
            f"cannot keep tasks in {path.parent}: {error.strerror}; set 'url' in [state]"
        ) from None
    state = settings.state
    return SqliteStore(path, synchronous=state.synchronous, busy_seconds=state.timeout_seconds)


def require_server() -> None:
    """Check that the MCP SDK is there, and new enough.

    Raises:
        MissingDependency: It is not; the message names the command that installs it.
    """
    try:
        found = importlib.metadata.version("mcp")
    except importlib.metadata.PackageNotFoundError:
        found = ""
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST_MCP:
        raise missing_extra("raincheck's server needs mcp 2.3 or newer", "server")


def make_poll_advisor(polling: PollingSettings, history: Lookup, clock: Callable[[], datetime]) -> PollAdvisor:
    """What says when callers ask again, as the settings have it."""
    ladder = BackoffLadder(
        polling.initial_interval_ms / 1000, polling.max_interval_ms / 1000, polling.backoff_multiplier
    )
    return PollAdvisor(ladder, history if polling.learn else None, clock=clock)
