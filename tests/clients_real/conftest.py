from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from clients_real.office import FUNCTIONS, TOML

from support.serving import Workplace


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path, TOML, FUNCTIONS)


@pytest.fixture(params=["stdio", "streamable-http"])
async def office(request: pytest.FixtureRequest, workplace: Workplace) -> AsyncGenerator[dict[str, Any]]:
    """Where the server is, as the clients' programs take it. On stdio each client starts a server of its own."""
    if request.param == "stdio":
        command = [str(Path(sys.executable).with_name("raincheck")), "serve", str(workplace.folder / "raincheck.toml")]
        env = {"PATH": os.environ["PATH"], "HOME": str(workplace.folder), "RAINCHECK_WORKER__IDLE_SECONDS": "2"}
        yield {"command": command, "cwd": str(workplace.folder), "env": env}
    else:
        async with workplace.http() as server:
            yield {"url": server.url}
