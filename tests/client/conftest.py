from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from client.office import FUNCTIONS, TOML, Office
from client.proxy import Proxy

from support.serving import HttpServer, Workplace


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(Workplace(tmp_path, TOML, FUNCTIONS))


@pytest.fixture
async def http(office: Office) -> AsyncGenerator[HttpServer]:
    async with office.place.http() as server:
        yield server


@pytest.fixture
async def proxy(http: HttpServer) -> AsyncGenerator[Proxy]:
    async with Proxy(http.port) as between:
        yield between
