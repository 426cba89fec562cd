"""`raincheck worker module:rc` runs a FastMCP server's tools in a process of its own, inside the server's lifespan."""

# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from fastmcp import Client
from fastmcp.client.transports import PythonStdioTransport

SERVER = """
import os
from contextlib import asynccontextmanager

from fastmcp import Context, FastMCP

from raincheck import load_settings
from raincheck.fastmcp import Raincheck


@asynccontextmanager
async def life(server):
    yield {"opened_by": os.getpid()}


rc = Raincheck(tools="slow_*", settings=load_settings(None, environ=os.environ))
mcp = FastMCP("bureau", lifespan=life)
mcp.add_extension(rc)


@mcp.tool
async def slow_report(topic: str, ctx: Context) -> str:
    return f"{topic} by {os.getpid()}, opened by {ctx.lifespan_context['opened_by']}"


if __name__ == "__main__":
    mcp.run(show_banner=False)
"""


async def test_a_worker_runs_a_fastmcp_servers_tools_in_the_servers_lifespan(tmp_path: Path) -> None:
    (tmp_path / "bureau.py").write_text(SERVER)
    environment = {**os.environ, "RAINCHECK_STATE__URL": str(tmp_path / "tasks.db")}
    accepts = environment | {"RAINCHECK_EXECUTION__MAX_CONCURRENCY": "0"}
    transport = PythonStdioTransport(tmp_path / "bureau.py", env=accepts, python_cmd=sys.executable)
    async with Client(transport) as client:
        call = {"operation_type": "slow_report", "parameters": {"topic": "rain"}}
        ticket = (await client.call_tool("initiate_background_task", call)).structured_content
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "raincheck", "worker", "bureau:rc"), cwd=tmp_path, env=environment
        )
        try:
            task, wait = ticket, {"task_ref": ticket["task_ref"], "wait_seconds": 20}
            async with asyncio.timeout(30):
                while task["status"] in ("queued", "pending", "processing"):
                    task = (await client.call_tool("resolve_task_status", wait)).structured_content
            assert task["status"] == "completed", task
            assert task["result"] == {"result": f"rain by {worker.pid}, opened by {worker.pid}"}
            worker.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(worker.wait(), 10) == 0
        finally:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()
