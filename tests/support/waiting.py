"""How long a test waits for what must come. A bound only ends a test that hangs: a busy machine is no failure."""

from __future__ import annotations

__all__ = ["PATIENCE"]

PATIENCE = 30.0
"""Seconds: many times what it takes, and half of the minute after which the tests' own fallbacks would come true (a
reconciliation, a child that sleeps for sixty seconds), so that nothing passes by them. What must come sooner than that
because it is the claim has a bound of its own."""
