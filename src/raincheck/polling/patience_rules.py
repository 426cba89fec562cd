"""The rules that learn patience from hang-ups: pure functions.

A person's Esc key ends a call as a client's timeout does. So one hang-up bounds the client's patience for an hour only;
it is remembered for longer, and a later one at about the same age confirms it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

_ONCE_SECONDS = 3600.0
_KEPT_SECONDS = 30 * 86400.0
_NEAR = 0.2
# One key press ends all calls that are under way: that is one hang-up.
_SAME_MOMENT_SECONDS = 1.0
# A confirmation is written anew once a day, however often it is confirmed.
_RENEWED_SECONDS = 86400.0
_MOST_CLIENTS = 32
# A wait that is not much longer than the one that is known is not worth writing down.
_MUCH = 1.25


class HangUp(NamedTuple):
    """A hang-up: how many seconds the client had waited, and when that was (POSIX time).

    Attributes:
        answered: It was none: the client had its answer after so long.
    """

    seconds: float
    at: float
    answered: bool = False


class HangUps:
    """The hang-ups of one client.

    Attributes:
        once: The latest that is not confirmed.
        again: The shortest wait that was ended twice.
        waited: The longest wait that was not ended, where that is kept.
    """

    __slots__ = ("again", "once", "waited")

    def __init__(self, once: HangUp | None = None, again: HangUp | None = None, waited: HangUp | None = None) -> None:
        self.once = once
        self.again = again
        self.waited = waited

    def bound(self, now: float) -> float | None:
        """How long the client was seen to wait, None where nothing is known (any more)."""
        live = [_live(self.once, now, _ONCE_SECONDS), _live(self.again, now, _KEPT_SECONDS)]
        return min((each.seconds for each in live if each is not None), default=None)

    def last(self) -> float:
        """When it last changed."""
        return max((each.at for each in (self.once, self.again, self.waited) if each is not None), default=0.0)

    def longest(self, now: float) -> float:
        """How long the client has waited, 0 where that is not known (any more)."""
        waited = _live(self.waited, now, _KEPT_SECONDS)
        return 0.0 if waited is None else waited.seconds

    def _add_wait(self, seen: HangUp) -> bool:
        waited = _live(self.waited, seen.at, _KEPT_SECONDS)
        if waited is not None and seen.seconds < waited.seconds * _MUCH and seen.at - waited.at < _RENEWED_SECONDS:
            return False
        self.waited = seen if waited is None or waited.seconds < seen.seconds else waited._replace(at=seen.at)
        return True

    def add(self, seen: HangUp) -> bool:
        """Learn from one more; whether anything changed.

        A later hang-up after a longer wait teaches nothing while a shorter bound is alive.
        """
        if seen.answered:
            return self._add_wait(seen)
        once, again = _live(self.once, seen.at, _KEPT_SECONDS), _live(self.again, seen.at, _KEPT_SECONDS)
        if again is not None and _near(seen, again):
            if seen.seconds >= again.seconds and seen.at - again.at < _RENEWED_SECONDS:
                return False
            self.again = _shorter(seen, again)
            return True
        if once is not None and _near(seen, once):
            if abs(seen.at - once.at) < _SAME_MOMENT_SECONDS:
                return False
            if again is None or min(seen.seconds, once.seconds) < again.seconds:
                self.again = _shorter(seen, once)
            self.once = None
            return True
        bound = self.bound(seen.at)
        if bound is not None and seen.seconds >= bound:
            return False
        self.once = seen
        return True


class ScopeHangUps:
    """The hang-ups of one scope's clients, by name and version: the 32 that were last heard of."""

    def __init__(self) -> None:
        self._clients: dict[tuple[str, str], HangUps] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def bound(self, name: str, version: str, now: float) -> float | None:
        """See `HangUps.bound`."""
        known = self._clients.get((name, version))
        return None if known is None else known.bound(now)

    def longest(self, name: str, version: str, now: float) -> float:
        """See `HangUps.longest`."""
        known = self._clients.get((name, version))
        return 0.0 if known is None else known.longest(now)

    def add(self, name: str, version: str, seen: HangUp) -> bool:
        """See `HangUps.add`."""
        known = self._clients.get((name, version))
        if known is None:
            known = self._clients[name, version] = HangUps()
        changed = known.add(seen)
        while len(self._clients) > _MOST_CLIENTS:
            del self._clients[min(self._clients, key=lambda key: self._clients[key].last())]
        return changed

    def to_json(self, now: float) -> list[dict[str, Any]]:
        """As it is stored: what is still worth remembering."""
        return [
            {
                "name": name,
                "version": version,
                "once": _json(known.once, now),
                "again": _json(known.again, now),
                "waited": _json(known.waited, now),
            }
            for (name, version), known in self._clients.items()
            if now - known.last() < _KEPT_SECONDS
        ]

    @classmethod
    def from_json(cls, stored: Any) -> ScopeHangUps:
        """What `to_json` gave.

        Raises:
            ValueError, TypeError, LookupError: It is something else.
        """
        made = cls()
        for client in stored[-_MOST_CLIENTS:]:
            waited = _hang_up(client["waited"])
            hang_ups = HangUps(
                _hang_up(client["once"]),
                _hang_up(client["again"]),
                None if waited is None else waited._replace(answered=True),
            )
            made._clients[str(client["name"]), str(client["version"])] = hang_ups
        return made


def _near(one: HangUp, other: HangUp) -> bool:
    return abs(one.seconds - other.seconds) <= _NEAR * max(one.seconds, other.seconds)


def _shorter(seen: HangUp, known: HangUp) -> HangUp:
    return HangUp(min(seen.seconds, known.seconds), max(seen.at, known.at))


def _live(seen: HangUp | None, now: float, seconds: float) -> HangUp | None:
    return seen if seen is not None and now - seen.at < seconds else None


def _json(seen: HangUp | None, now: float) -> list[float] | None:
    live = _live(seen, now, _KEPT_SECONDS)
    return None if live is None else [live.seconds, live.at]


def _hang_up(stored: Any) -> HangUp | None:
    return None if stored is None else HangUp(float(stored[0]), float(stored[1]))
