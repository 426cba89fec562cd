"""A store that does not answer: callers hear that they may try again, and nothing of where it is."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.server.mcpserver import MCPServer

from raincheck.mcp.extension import Raincheck
from raincheck.stores.sqlite import SqliteStore


async def test_a_caller_may_try_again_and_hears_nothing_of_the_inside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tasks.db"
    rc = Raincheck(store=SqliteStore(path, busy_seconds=0.1))

    @rc.operation(mode="task")
    async def work() -> str:
        return "done"

    server: Any = MCPServer("office", extensions=[rc], lifespan=rc.lifespan)
    caplog.set_level(logging.WARNING, "raincheck.mcp")
    async with Client(server) as client:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            answers = [
                await client.call_tool("initiate_background_task", {"operation_type": "work"}),
                await client.call_tool("work", {}),
            ]
        again = await client.call_tool("initiate_background_task", {"operation_type": "work"})
    for answer in answers:
        assert answer.is_error
        error: dict[str, Any] = answer.structured_content["error"]  # pyright: ignore
        assert (error["code"], error["retryable"]) == ("internal", True)
        assert "Try again" in error["message"]
        assert str(path) not in str(answer)
        assert any(
            error["details"]["correlation_id"] in record.getMessage() and str(path) in record.getMessage()
            for record in caplog.records
        )
    assert not again.is_error
