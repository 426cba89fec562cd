"""The command of a missing extra is the one that works for how this copy came here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from raincheck.extras import install_command, missing_extra

Installed = Callable[[Mapping[str, Any] | None], None]


VCS = {"vcs": "git", "commit_id": "0" * 40}
GIT: dict[str, Any] = {"url": "https://git.example.com/raincheck.git", "vcs_info": VCS}
CAME_FROM: list[tuple[dict[str, Any] | None, str]] = [
    (None, 'pip install "raincheck[server]"'),
    ({"url": "file:///home/me/rain%20check", "dir_info": {}}, 'pip install "/home/me/rain check[server]"'),
    ({"url": "file:///src/rc", "dir_info": {"editable": True}}, 'pip install -e "/src/rc[server]"'),
    (
        {"url": "file:///tmp/raincheck-0.1.0-py3-none-any.whl", "archive_info": {}},
        'pip install "raincheck[server] @ file:///tmp/raincheck-0.1.0-py3-none-any.whl"',
    ),
    (GIT, 'pip install "raincheck[server] @ git+https://git.example.com/raincheck.git"'),
    (
        {**GIT, "subdirectory": "py", "vcs_info": {**VCS, "requested_revision": "v1"}},
        'pip install "raincheck[server] @ git+https://git.example.com/raincheck.git@v1#subdirectory=py"',
    ),
]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Metadata as an installer leaves it, in a site folder of its own that is found first; with pip on PATH."""
    site = tmp_path / "site" / "raincheck-0.1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: raincheck\nVersion: 0.1.0\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("python", "pip"):
        (programs / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(sys, "path", [str(site.parent), *sys.path])

    def came_from(direct_url: Mapping[str, Any] | None) -> None:
        if direct_url is not None:
            (site / "direct_url.json").write_text(json.dumps(direct_url))

    return came_from


@pytest.mark.parametrize(
    ("direct_url", "command"),
    CAME_FROM,
    ids=["index", "folder", "editable", "wheel", "git", "a revision in a folder"],
)
def test_the_command_is_for_where_it_came_from(
    direct_url: Mapping[str, Any] | None, command: str, installed: Installed
) -> None:
    installed(direct_url)
    assert install_command("server") == command
    assert str(missing_extra("serving needs mcp", "server")) == f"serving needs mcp: {command}"


def test_a_tool_of_uv_keeps_the_extras_that_it_has(installed: Installed, tmp_path: Path) -> None:
    installed(GIT)
    (tmp_path / "uv-receipt.toml").write_text('[tool]\nrequirements = [{ name = "raincheck", extras = ["server"] }]\n')
    expected = 'uv tool install "raincheck[redis,server] @ git+https://git.example.com/raincheck.git"'
    assert install_command("redis") == expected


def test_a_tool_of_pipx_keeps_the_extras_that_it_has(installed: Installed, tmp_path: Path) -> None:
    installed(None)
    receipt = {"main_package": {"package": "raincheck", "package_or_url": "raincheck[server]"}}
    (tmp_path / "pipx_metadata.json").write_text(json.dumps(receipt))
    assert install_command("redis") == 'pipx install --force "raincheck[redis,server]"'


def test_what_is_too_old_is_upgraded_with_what_it_needs(installed: Installed) -> None:
    installed(None)
    command = 'pip install --upgrade --upgrade-strategy eager "raincheck[docket]"'
    assert install_command("docket", upgrade=True) == command


def test_where_no_pip_on_the_path_is_this_environments_its_python_is_named(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(None)
    monkeypatch.setenv("PATH", "/nowhere")
    assert install_command("server") == f'{sys.executable} -m pip install "raincheck[server]"'


def test_the_command_of_this_copy_is_taken_by_its_installer() -> None:
    assert "editable" in (distribution("raincheck").read_text("direct_url.json") or "")
    command = f"{install_command('server')} --no-deps --dry-run -q"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
