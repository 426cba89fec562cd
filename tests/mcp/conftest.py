from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raincheck.config.settings import Settings
from raincheck.mcp.sdk_host import Raincheck


@pytest.fixture
def make_raincheck(tmp_path: Path) -> Callable[..., Raincheck]:
    def make(**options: Any) -> Raincheck:
        settings = Settings.model_validate({"execution": {"lease_seconds": 1, "drain_seconds": 0}})
        return Raincheck(store=tmp_path / "tasks.db", settings=settings, **options)

    return make
