"""Webhook targets: the value of `Task.callback_url`."""

from __future__ import annotations

OWN = "operation:"
"""Stands for the operation's own webhook. Its address stays in the settings: it may hold a secret, and a corrected one
counts for what is still to be delivered too."""


def joined(*, own: bool, callback: str | None) -> str | None:
    """What the task keeps: the operation's own webhook, the caller's address, both (a blank between), or None."""
    return " ".join([OWN] * own + ([callback] if callback else [])) or None


def targets_of(callback_url: str | None) -> tuple[str, ...]:
    """Each of them."""
    return tuple((callback_url or "").split())
