"""Connections to the Redis server, and the checks of its settings."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from raincheck.errors import StoreError, StoreUnavailable, StoreUnusable
from raincheck.ports.tls import Tls
from raincheck.stores.redis import scripts
from raincheck.stores.redis.errors import store_error
from raincheck.stores.redis.scripts import encode_command

logger = logging.getLogger(__name__)

# The keys that a store of this layout has under fixed names.
_KINDS = {
    b"layout": b"string",
    b"lists:*": b"set",
    b"due": b"zset",
    b"expiring": b"zset",
    b"records-expiring": b"zset",
    b"kinds": b"set",
}

_INFO = encode_command((b"INFO",))
_SAVE = encode_command((b"CONFIG", b"GET", b"save"))
_SYNC = encode_command((b"CONFIG", b"GET", b"appendfsync"))


class Wire(Protocol):
    """A connection of redis-py's, as far as it is used here."""

    async def connect(self) -> None:
        """Connect, log in, choose the database."""
        ...

    async def disconnect(self, nowait: bool = False) -> None:
        """Let go of it. Idempotent."""
        ...

    async def send_packed_command(self, command: bytes, check_health: bool = True) -> None:
        """Send one or more commands in the protocol's form."""
        ...

    async def read_response(self, disable_decoding: bool = False, *, disconnect_on_error: bool = True) -> Any:
        """The next answer; an error that is one is raised."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where the server is.

    Attributes:
        url: With all it holds; never shown.
        tls: What is to be used beyond what the address says; where it is given, TLS is required.
        timeout_seconds: How long a call may take.
        root: What every key begins with: the prefix and the hash tag.
    """

    url: str = field(repr=False)
    tls: Tls | None
    timeout_seconds: float
    root: bytes

    @property
    def place(self) -> str:
        """How messages name it: without user name, password and options."""
        try:
            parts = urlsplit(self.url)
        except ValueError:
            return "(no valid url)"
        if parts.scheme == "unix":
            return f"unix://{parts.path}"
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def wire(self) -> Wire:
        """A further connection, not yet connected; waiting and trying again are the caller's.

        Raises:
            StoreUnusable: The address makes no sense.
        """
        try:
            pool: Any = redis.asyncio.ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
                self._url(),
                socket_timeout=None,
                socket_connect_timeout=self.timeout_seconds,
                **self._options(),
            )
            return pool.make_connection()
        except (ValueError, TypeError, RedisError) as error:
            raise self._nonsense() from error

    def client(self, connections: int) -> Any:
        """A client for the event loop with at most so many connections; its commands are of bytes.

        Raises:
            StoreUnusable: The address makes no sense.
        """
        try:
            pool: Any = redis.asyncio.BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
                self._url(),
                max_connections=connections,
                timeout=self.timeout_seconds,
                socket_timeout=self.timeout_seconds,
                socket_connect_timeout=self.timeout_seconds,
                **self._options(),
            )
        except (ValueError, TypeError, RedisError) as error:
            raise self._nonsense() from error
        return redis.asyncio.Redis.from_pool(pool)

    def _nonsense(self) -> StoreUnusable:
        return StoreUnusable(f"The task store's url {self.place} is not one that Redis clients understand.")

    def _url(self) -> str:
        if self.tls is not None and self.url.startswith("redis://"):
            return "rediss" + self.url.removeprefix("redis")
        return self.url

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"protocol": 2, "socket_keepalive": True, "client_name": "raincheck"}
        if self.url.startswith("unix://"):
            del options["socket_keepalive"]
        if self.tls is not None:
            options["ssl_check_hostname"] = True
            options["ssl_ca_certs"] = self.tls.ca
            options["ssl_certfile"] = self.tls.cert
            options["ssl_keyfile"] = self.tls.key
        return options


async def prepare(wire: Wire, address: Address, *, migrate: bool) -> None:
    """Refuse a server or keys that tasks must not be given to; upgrade keys of an older layout.

    Args:
        wire: A connection that knows the scripts.
        address: The server.
        migrate: Whether the layout may be upgraded.

    Raises:
        StoreUnusable: The server may evict tasks, or the keys are another program's, of a newer layout, or of an older
            one that may not be upgraded.
        StoreUnavailable: It is a replica, or cannot be asked.
    """
    place = address.place
    layout = [encode_command((b"GET", address.root + b"layout"))]
    layout += [encode_command((b"TYPE", address.root + key)) for key in _KINDS]
    try:
        async with asyncio.timeout(address.timeout_seconds):
            info, save, sync, stored, *kinds = await _ask(wire, _INFO, _SAVE, _SYNC, *layout)
            older = _check_layout(stored, dict(zip(_KINDS, kinds, strict=True)), place, migrate=migrate)
            _check_server(info, save, sync, place)
            for before in range(older, scripts.LAYOUT):
                script = scripts.upgrade(before, scripts.STEPS[before - 1])
                (answer,) = await _ask(wire, encode_command(script.command(address.root, [], by_text=True)))
                if isinstance(answer, Exception):
                    raise answer
                # Another process may have been there first, and may know more steps.
                if (layout_number(answer) or 0) > scripts.LAYOUT:
                    raise newer_layout(answer, place)
    except (RedisError, OSError, TimeoutError) as error:
        raise store_error(error, place) from error


async def _ask(wire: Wire, *commands: bytes) -> list[Any]:
    """The answers to these commands in one round trip; an answer that is an error is that error.

    Raises:
        redis.RedisError, OSError: The connection is lost.
    """
    await wire.send_packed_command(b"".join(commands), check_health=False)
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(await wire.read_response(disable_decoding=True, disconnect_on_error=False))
        except ResponseError as error:
            answers.append(error)
    return answers


def _check_server(info: object, save: object, sync: object, place: str) -> None:
    """Refuse a server that would lose tasks by design, and warn of one that may lose them by accident.

    Args:
        info: The answer to INFO.
        save: The answer to CONFIG GET save.
        sync: The answer to CONFIG GET appendfsync. Hosted servers often refuse both.

    Raises:
        StoreUnavailable: It is a replica.
        StoreUnusable: It may evict tasks.
        StoreError: It refuses to be asked.
    """
    if isinstance(info, Exception):
        raise store_error(info, place)
    facts = _facts(cast("bytes", info))
    if facts.get("role") == "slave" and facts.get("slave_read_only") != "0":
        raise StoreUnavailable(f"The task store {place} is a read-only replica: connect to the primary.")
    if (policy := _evicting_policy(facts)) is not None:
        raise StoreUnusable(
            f"The task store {place} would evict tasks when its memory is full (maxmemory-policy is {policy}): "
            "set maxmemory-policy to noeviction."
        )
    if facts.get("aof_enabled") == "1":
        if _setting(sync) not in (None, "always"):
            logger.info(
                "the task store %s syncs once a second: a power cut may take the last second's tasks, start again what "
                "was done in it, and repeat fencing numbers (set appendfsync to always)",
                place,
            )
    elif _setting(save) == "":
        logger.warning(
            "the task store %s keeps nothing on disk: its restart loses every task (set appendonly to yes)", place
        )
    else:
        logger.warning(
            "the task store %s writes no append-only file: its restart loses the tasks since its last snapshot "
            "(set appendonly to yes)",
            place,
        )


class Evictions:
    """Whether the server may throw tasks away since it was opened, or has: told in the log, once for each change.

    Args:
        place: How messages name the server.
    """

    INFO = _INFO

    def __init__(self, place: str) -> None:
        self._place = place
        self._policy: str | None = None
        self._evicted: int | None = None

    def look(self, info: bytes) -> None:
        """See what the answer to INFO says."""
        facts = _facts(info)
        policy, evicted = _evicting_policy(facts), int(facts.get("evicted_keys", "0"))
        if policy not in (None, self._policy):
            logger.critical(
                "the task store %s may evict tasks from now on, and loses them (maxmemory-policy is %s): "
                "set maxmemory-policy to noeviction",
                self._place,
                policy,
            )
        if self._evicted is not None and evicted > self._evicted:
            logger.critical(
                "the task store %s has evicted %d keys: tasks may be lost", self._place, evicted - self._evicted
            )
        self._policy, self._evicted = policy, evicted


def _evicting_policy(facts: Mapping[str, str]) -> str | None:
    policy = facts.get("maxmemory_policy", "noeviction")
    limited = facts.get("maxmemory", "0") != "0"
    # Every key of ours has an expiry, so volatile-* takes them as well, as soon as there is a limit.
    return policy if policy.startswith("allkeys-") or (limited and policy != "noeviction") else None


def _check_layout(layout: object, kinds: Mapping[bytes, object], place: str, *, migrate: bool) -> int:
    """Refuse tasks of a layout that this release does not know, and keys of another program.

    Returns:
        The layout of the keys; this release's where there are none.

    Args:
        layout: What is stored under `layout`.
        kinds: Of each key in `_KINDS`, the answer to TYPE.
        migrate: Whether an older layout may be upgraded.

    Raises:
        StoreUnusable: It is so, or an upgrade is needed and not allowed.
        StoreError: The server refuses to be asked.
    """
    for key, kind in kinds.items():
        if isinstance(kind, Exception):
            raise store_error(kind, place)
        if kind not in (b"none", _KINDS[key]):
            raise StoreUnusable(
                f"The task store {place} has keys of another program under key_prefix: set another one."
            )
    if isinstance(layout, Exception):
        raise store_error(layout, place)
    if layout is None:
        return scripts.LAYOUT
    number = layout_number(layout)
    if number is None or number > scripts.LAYOUT:
        raise newer_layout(cast("bytes", layout), place)
    if number < scripts.LAYOUT and not migrate:
        raise StoreUnusable(
            f"The task store {place} has layout '{number}', this raincheck needs layout {scripts.LAYOUT}: "
            'run "raincheck store migrate".'
        )
    return number


def layout_number(layout: object) -> int | None:
    """What is stored under `layout`; None where it is no layout of any release."""
    return int(layout) if isinstance(layout, bytes) and re.fullmatch(rb"[1-9]\d{0,3}", layout) else None


def newer_layout(layout: bytes, place: str) -> StoreError:
    """The error for tasks of another layout than this release's."""
    shown = layout[:20].decode(errors="replace")
    return StoreUnusable(
        f"The task store {place} has layout {shown!r}, this raincheck knows layout {scripts.LAYOUT}: "
        "upgrade raincheck or set another key_prefix."
    )


def _facts(info: bytes) -> dict[str, str]:
    lines = info.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _setting(answer: object) -> str | None:
    if isinstance(answer, list) and len(found := cast("list[bytes]", answer)) == 2:
        return found[1].decode(errors="replace")
    return None


def server_seconds(answer: object) -> float:
    """The server's clock, in seconds since 1970, of an answer to TIME."""
    if isinstance(answer, list):
        seconds, micros = cast("list[bytes]", answer)[-2:]
        return int(seconds) + int(micros) / 1e6
    return math.nan
