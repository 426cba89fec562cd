"""The renewal of leases in a Redis store: from a thread, on a connection of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

import redis
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeout

from raincheck.stores.redis.commands import ServerClock
from raincheck.stores.redis.connections import Address, server_seconds
from raincheck.stores.redis.errors import is_answer, no_answer, store_error
from raincheck.stores.redis.rows import length_of, name_of, stored_text, text_from
from raincheck.stores.redis.scripts import SCRIPTS
from raincheck.stores.shared.timestamps import to_micros

# So many leases are renewed by one run of the script; others get in between.
_STEP = 200
_RENEW = SCRIPTS["renew"]


class Leases:
    """Renews leases, blocking. From any thread."""

    def __init__(self, address: Address, clock: ServerClock) -> None:
        self._address = address
        self._clock = clock
        self._client: redis.Redis = address.blocking_client()

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def renew(
        self, worker_id: str, leases: Mapping[str, int], lease_until: datetime, lease_seconds: float | None
    ) -> set[str]:
        """See `TaskStore.renew`."""
        give_up_at = time.monotonic() + self._address.timeout_seconds
        entries = list(leases.items())
        lost: set[str] = set()
        for start in range(0, len(entries), _STEP):
            arguments = [name_of(worker_id), b"%d" % to_micros(lease_until), length_of(lease_seconds)]
            for ref, fence in entries[start : start + _STEP]:
                arguments += [stored_text(ref), b"%d" % fence]
            lost.update(map(text_from, self._run(arguments, give_up_at)))
        return lost

    def _run(self, arguments: list[bytes], give_up_at: float) -> list[bytes]:
        tried = 0
        while time.monotonic() < give_up_at and tried < 3:
            tried += 1
            # Monotonic seconds are the event loop's as well, so its clock serves here.
            late_at = self._clock.milliseconds(give_up_at)
            try:
                kind, *answer = self._evaluate([late_at, *arguments])
            except (LostConnection, RedisTimeout) as error:
                # The connection may have been lost long ago; the next one is fresh.
                if is_answer(error) or tried > 1:
                    raise store_error(error, self._address.place) from error
            except (RedisError, OSError) as error:
                # Bare, where this process has no descriptor left.
                raise store_error(error, self._address.place) from error
            else:
                if kind == b"lost":
                    return answer
                self._clock.set(server_seconds(answer), time.monotonic())
        raise no_answer(self._address.place, self._address.timeout_seconds)

    def _evaluate(self, arguments: list[bytes]) -> list[bytes]:
        client: Any = self._client
        root = self._address.root
        try:
            answer = client.evalsha(_RENEW.sha.decode(), 1, root, *arguments)
        except NoScriptError:
            answer = client.eval(_RENEW.text.decode(), 1, root, *arguments)
        return cast("list[bytes]", answer)
