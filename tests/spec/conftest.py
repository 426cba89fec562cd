from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from spec.channels import Channel, hosted, http, stdio_process
from spec.peers import Legacy, Modern


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def release(tmp_path: Path) -> Callable[[str], None]:
    """Lets an operation that waits for this name go on."""
    return lambda name: (tmp_path / name).touch()


@pytest.fixture(params=["http", "stdio"])
async def channel(request: pytest.FixtureRequest, store: Path) -> AsyncGenerator[Channel]:
    """A channel to a server of the operations, over either transport."""
    transport: Any = request.param
    async with AsyncExitStack() as stack:
        if transport == "http":
            yield await stack.enter_async_context(http(await stack.enter_async_context(hosted(store))))
        else:
            yield await stack.enter_async_context(stdio_process(store))


@pytest.fixture
def modern(channel: Channel) -> Modern:
    return Modern(channel)


@pytest.fixture
async def legacy(channel: Channel) -> Legacy:
    return await Legacy(channel).connect()
