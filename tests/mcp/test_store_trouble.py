"""A store that does not answer: callers hear what is wrong and that they may try again, not where on the network."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.server.mcpserver import MCPServer

from raincheck.errors import StoreUnavailable, StoreUnusable
from raincheck.mcp.sdk_host import Raincheck
from raincheck.mcp.wire.store_errors import for_callers
from raincheck.stores.sqlite.store import SqliteStore


async def test_a_caller_hears_what_is_wrong_that_it_may_try_again_and_under_which_id_the_log_has_the_rest(
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
        assert "locked by another process" in error["message"]
        assert any(
            error["details"]["correlation_id"] in record.getMessage() and str(path) in record.getMessage()
            for record in caplog.records
        )
    assert not again.is_error


@pytest.mark.parametrize(
    ("logged", "told"),
    [
        (
            "The task store postgresql://db.internal:5432/tasks did not answer in time.",
            "The task store did not answer in time.",
        ),
        ("The task store redis://10.1.2.3:6379/0: the user needs a right.", "The task store: the user needs a right."),
        ("The task store unix:///run/redis.sock does not answer.", "The task store does not answer."),
        (
            "The DynamoDB table raincheck_tasks at https://dynamodb.internal does not answer.",
            "The DynamoDB table raincheck_tasks does not answer.",
        ),
        ("The task store /home/ada/tasks.db is read-only.", "The task store …/tasks.db is read-only."),
    ],
)
def test_no_caller_hears_where_on_the_network_the_store_is(logged: str, told: str) -> None:
    found = for_callers(StoreUnavailable(logged))
    assert (found.message, found.retryable) == (told, True)
    assert for_callers(StoreUnusable(logged)).retryable is False
