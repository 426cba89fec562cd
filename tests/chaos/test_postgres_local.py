"""Servers and workers on postgres + local are killed, frozen and cut off: every promise holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.short import hold_every_promise


@pytest.mark.timeout(300)
async def test_every_promise_holds_under_faults_on_postgres_local(tmp_path: Path) -> None:
    await hold_every_promise("postgres + local", tmp_path)
