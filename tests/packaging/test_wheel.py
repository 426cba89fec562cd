"""The built wheel, which is what users get: everything in it, and usable beside an old MCP SDK."""

from __future__ import annotations

import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Generator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import raincheck

ROOT = Path(__file__).parents[2]
SOURCES = Path(raincheck.__file__).parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    (built,) = folder.glob("raincheck-*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    wanted = {
        path.relative_to(SOURCES.parent).as_posix()
        for path in SOURCES.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert wanted <= held
    assert any(name.endswith(".sql") for name in wanted)
    assert "raincheck/py.typed" in held


@pytest.fixture
def repository(tmp_path: Path) -> Generator[str]:
    """The address of this repository, on a server of its own."""
    bare = tmp_path / "raincheck.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(ROOT), str(bare)], check=True)
    subprocess.run(["git", "update-server-info"], cwd=bare, check=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/raincheck.git"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_copy_from_a_git_address_says_that_address(tmp_path: Path, repository: str) -> None:
    venv.create(tmp_path / "fresh", symlinks=True)
    python = tmp_path / "fresh" / "bin" / "python"
    address = f"git+{repository}"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    install = [*pip, "install", "-q", "--no-deps", f"raincheck[server] @ {address}"]
    subprocess.run(install, check=True, stdin=subprocess.DEVNULL)
    program = "from raincheck.extras import install_command; print(install_command('server'))"
    told = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == f'uv pip install --python {python} "raincheck[server] @ {address}"\n'


def test_the_base_package_works_beside_an_old_sdk_and_says_what_the_server_needs(wheel: Path, tmp_path: Path) -> None:
    # With a pip of its own, by which the message has its command.
    venv.create(tmp_path / "old", with_pip=True, symlinks=True)
    python = tmp_path / "old" / "bin" / "python"
    installing = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", str(wheel), "mcp<2"]
    subprocess.run(installing, check=True, stdin=subprocess.DEVNULL)
    program = (
        "import mcp, raincheck, raincheck.client as client; print(client.TaskPoller.__name__); raincheck.Raincheck"
    )
    told = subprocess.run([str(python), "-c", program], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert told.stdout == "TaskPoller\n"
    last = told.stderr.strip().splitlines()[-1]
    said, _, command = last.partition(" needs mcp 2.3 or newer: ")
    assert said.endswith("raincheck's server")
    # As typed in a shell, for the wheel that is installed here.
    assert f'pip install "raincheck[server] @ {wheel.as_uri()}"' in command
    tried = subprocess.run(["sh", "-c", f"{command} --no-deps --dry-run -q"], capture_output=True, text=True)
    assert tried.returncode == 0, tried.stderr
