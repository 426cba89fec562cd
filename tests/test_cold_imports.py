"""Each entry is imported alone by a Python that knows nothing yet: what warm starts (support/warm.py) would hide."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.serving import Workplace
from support.warm_process import MODULES

PUBLIC = (
    "raincheck",
    "raincheck.domain.caller",
    "raincheck.client",
    "raincheck.client.parsing",
    "raincheck.client.sync",
    "raincheck.config.loading",
    "raincheck.errors",
    "raincheck.fastmcp",
    "raincheck.mcp",
    "raincheck.operations.context",
    "raincheck.operations.operation",
    "raincheck.domain.task",
    "raincheck.testing",
)
OURS = tuple(name for name in MODULES if name.startswith("raincheck."))
# Each imports the SDK, two seconds of a core: after the first it is there, and all of raincheck is new to each.
WITH_THE_SDK = tuple(name for name in OURS if name.startswith("raincheck.mcp."))
ALONE = tuple((name,) for name in dict.fromkeys((*PUBLIC, *OURS)) if name not in WITH_THE_SDK)
IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        raise AssertionError(f"{name} cannot be the first import") from error
    for each in [each for each in sys.modules if each.partition(".")[0] == "raincheck"]:
        del sys.modules[each]
"""


@pytest.mark.cold
@pytest.mark.parametrize("names", [*ALONE, WITH_THE_SDK], ids=lambda names: names[0])
def test_each_entry_can_be_the_first_import_and_says_nothing(tmp_path: Path, names: tuple[str, ...]) -> None:
    program = [sys.executable, "-c", IMPORT, *names]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.cold
async def test_a_cold_server_serves_in_a_folder_whose_modules_have_names_of_ours(tmp_path: Path) -> None:
    toml = '[operations.add]\nkind = "python"\ntarget = "ops:add"\n'
    place = Workplace(tmp_path, toml, "import logs\n\n\ndef add(a: int) -> int:\n    return a + logs.ONE\n")
    for name in ("client", "config", "errors", "logs", "service", "store", "task"):
        (tmp_path / f"{name}.py").write_text("ONE = 1\n")
    async with place.stdio() as server:
        assert (await server.run("add", {"a": 2}))["result"] == 3
        assert server.stray == []
        server.close_stdin()
        assert await server.exited() == 0
        assert "Traceback" not in server.log
