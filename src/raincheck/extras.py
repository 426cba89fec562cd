"""Extras that are not installed: what is missing, and the command that adds it to this very installation.

How raincheck came here is written in its own metadata (`direct_url.json`, PEP 610), and in the receipts of the tools
that keep an environment for one command (uv tool, pipx).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from raincheck.errors import MissingDependency

__all__ = ["install_command", "missing_extra", "missing_package"]

_NAME = "raincheck"


def missing_extra(what: str, extra: str) -> MissingDependency:
    """The error of something that is not installed.

    Args:
        what: What needs what, as in "operations of kind http need httpx2".
        extra: The extra of raincheck that brings it.
    """
    return MissingDependency(f"{what}: {install_command(extra)}")


def missing_package(what: str, package: str) -> MissingDependency:
    """The error of a package of others that no extra brings; arguments as of `missing_extra`."""
    return MissingDependency(f"{what}: {_line(*_installer(), package)}")


def install_command(extra: str, *, upgrade: bool = False) -> str:
    """The command line that adds an extra, for how and where this copy of raincheck is installed.

    Args:
        extra: The extra's name.
        upgrade: Whether it is there and too old.
    """
    prefix = Path(sys.prefix)
    again = ["--upgrade"] if upgrade else []
    # These tools make the environment anew: what it had before has to be named too.
    if (receipt := prefix / "uv-receipt.toml").is_file():
        return _line("uv", "tool", "install", *again, *_requirement({*_extras_of_uv(receipt), extra}))
    if (receipt := prefix / "pipx_metadata.json").is_file():
        return _line("pipx", "install", "--force", *_requirement({*_extras_of_pipx(receipt), extra}))
    installer = _installer()
    if upgrade and installer[0] != "uv":
        # Else pip leaves alone what is there and fits, however old.
        again += ["--upgrade-strategy", "eager"]
    return _line(*installer, *again, *_requirement({extra}))


def _requirement(extras: set[str]) -> list[str]:
    """Raincheck with the extras, from where this copy came: a folder, an archive, a repository or an index."""
    named = f"{_NAME}[{','.join(sorted(extras))}]"
    origin = _origin()
    url = str(origin.get("url", ""))
    if "dir_info" in origin:
        folder = f"{_path_of(url)}[{','.join(sorted(extras))}]"
        return ["-e", folder] if origin["dir_info"].get("editable") else [folder]
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        revision = f"@{vcs['requested_revision']}" if vcs.get("requested_revision") else ""
        inner = f"#subdirectory={origin['subdirectory']}" if origin.get("subdirectory") else ""
        return [f"{named} @ {vcs['vcs']}+{url}{revision}{inner}"]
    return [f"{named} @ {url}"] if url else [named]


def _origin() -> dict[str, Any]:
    """What `direct_url.json` says; of a source tree that is not installed, what it would say."""
    source = Path(__file__).resolve().parents[2]
    try:
        text = importlib.metadata.distribution(_NAME).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        is_clone = (source / "pyproject.toml").is_file()
        return {"url": source.as_uri(), "dir_info": {"editable": True}} if is_clone else {}
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {}


def _path_of(url: str) -> str:
    return unquote(urlsplit(url).path)


def _installer() -> list[str]:
    """What installs into this environment: `pip`, where a shell that says so means this one."""
    python = Path(sys.executable)
    if importlib.util.find_spec("pip") is None:
        active = shutil.which("python")
        here = active is not None and Path(active).parent == python.parent
        return ["uv", "pip", "install"] if here else ["uv", "pip", "install", "--python", str(python)]
    found = shutil.which("pip")
    here = found is not None and Path(found).parent == python.parent
    return ["pip", "install"] if here else [str(python), "-m", "pip", "install"]


def _extras_of_uv(receipt: Path) -> set[str]:
    import tomllib

    try:
        tool = tomllib.loads(receipt.read_text(encoding="utf-8")).get("tool", {})
    except (OSError, ValueError):
        return set()
    return {
        extra for each in tool.get("requirements", ()) if each.get("name") == _NAME for extra in each.get("extras", ())
    }


def _extras_of_pipx(receipt: Path) -> set[str]:
    try:
        package = json.loads(receipt.read_text(encoding="utf-8"))["main_package"]["package_or_url"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    found = re.search(r"\[([\w,\s-]+)\]", str(package))
    return {extra.strip() for extra in found[1].split(",")} if found else set()


def _line(*words: str) -> str:
    # Double quotes where they do: they are the same in every shell.
    plain = re.compile(r"""[^"$`\\!]*""")
    return " ".join(
        word if re.fullmatch(r"[\w@%+=:,./-]+", word) else f'"{word}"' if plain.fullmatch(word) else shlex.quote(word)
        for word in words
    )
