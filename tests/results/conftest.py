from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from results.places import PLACES, Place
from stores.backends import end_servers

from raincheck.ports.blob_store import BlobStore
from support.servers.server import needed


@pytest.fixture(scope="session", autouse=True)
def _servers() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    before = dict(os.environ)
    yield
    end_servers()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(params=PLACES, ids=lambda place: place.name)
def place(request: pytest.FixtureRequest) -> Place:
    """Each place in turn."""
    place: Place = request.param
    needed(place.missing())
    return place


@pytest.fixture
async def blobs(place: Place, tmp_path: Path) -> AsyncIterator[BlobStore]:
    """An open, empty blob store."""
    async with place.opened(tmp_path) as opened:
        yield opened
