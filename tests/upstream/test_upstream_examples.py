"""The examples of docs/upstream-jobs.md."""

from __future__ import annotations

import runpy
from pathlib import Path

import httpx2
import pytest
from mcp import Client

from raincheck.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_tables_can_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VIDEO_TOKEN", "ML_TOKEN", "CI_TOKEN"):
        monkeypatch.setenv(name, "hush")
    arguments = ["check", str(EXAMPLES / "upstream_jobs.toml"), "--state-url", str(tmp_path / "tasks.db")]
    assert main(arguments) == 0


async def test_a_person_approves_by_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = tmp_path / "tasks.db"
    (tmp_path / "raincheck.toml").write_text(
        f'[server]\npublic_url = "http://office.example.com"\n[state]\nurl = "{url}"\n'
        "[execution]\nmax_wait_ceiling_seconds = 864000\n"
    )
    monkeypatch.chdir(tmp_path)
    example = runpy.run_path(str(EXAMPLES / "approval.py"))
    async with Client(example["mcp"]) as agent:
        ticket = (await agent.call_tool("approval", {"text": "the offer"})).structured_content
        assert ticket is not None
        asked = {"task_ref": ticket["task_ref"], "wait_seconds": 0.2}
        told = ""
        while "answer to " not in told:
            await agent.call_tool("resolve_task_status", asked)
            told += capsys.readouterr().out
        transport = httpx2.ASGITransport(app=example["app"])
        async with httpx2.AsyncClient(transport=transport) as office:
            body = {"status": "completed", "result": {"approved": True}}
            assert (await office.post(told.split("answer to ")[1].strip(), json=body)).status_code == 200
        answer = await agent.call_tool("resolve_task_status", {**asked, "wait_seconds": 5})
        assert answer.structured_content is not None
        assert answer.structured_content["result"] == {"approved": True}
