"""The patience of clients: set by the operator, known, or learned from hang-ups.

A held answer must arrive before its client hangs up.
"""

from __future__ import annotations

from collections.abc import Mapping

from raincheck.polling.known_clients import Client, known_patience
from raincheck.polling.patience_store import PatienceStore

SHARE = 0.8
"""Which share of a client's patience an answer is held for: the rest is for the way, and for clocks that differ."""


LONGEST_GUESS = 60.0
"""What a client of a shared name is taken to wait once it has waited as long as the least patient one."""

_NEARLY = SHARE - 0.1


class Patience:
    """The patience of the clients of one server, in seconds.

    Args:
        given: What the operator set, by the client's name (`[polling.patience]`); over all else.
        learned: What hang-ups taught; it only shortens what is known.
    """

    def __init__(self, given: Mapping[str, float], learned: PatienceStore) -> None:
        self._given = given
        self._learned = learned

    async def seconds(self, client: Client, scope: str) -> float | None:
        """How long the client waits for an answer; None where nothing is known."""
        given = self._given.get(client.name)
        if given is not None:
            return given
        known, learned = known_patience(client), await self._learned.seconds(client, scope)
        patience = None if known is None else known.seconds
        if known is not None and known.shared and self._learned.waited(client, scope) >= known.seconds * _NEARLY:
            # It waited as long as the least patient one can be let wait: it is not known for how much longer it would.
            patience = LONGEST_GUESS
        return patience if learned is None else learned if patience is None else min(patience, learned)

    def answered(self, client: Client, scope: str, *, after_seconds: float) -> None:
        """The client took an answer that was held so long."""
        known = known_patience(client)
        if known is not None and known.shared and after_seconds >= known.seconds * _NEARLY:
            self._learned.answered(client, scope, after_seconds=after_seconds)

    def hung_up(self, client: Client, scope: str, *, after_seconds: float) -> None:
        """The client gave up on a held answer so long after it had asked."""
        if client.name not in self._given:
            self._learned.hung_up(client, scope, after_seconds=after_seconds)
