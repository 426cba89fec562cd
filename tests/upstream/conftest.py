from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "tasks.db")


@pytest.fixture(autouse=True)
async def _nothing_left_running() -> AsyncIterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith("raincheck")]
    assert left == []
