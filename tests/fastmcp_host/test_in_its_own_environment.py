"""raincheck on FastMCP, in an environment of its own: the tests of the folder `inside`, each told here by its name."""

from __future__ import annotations

import ast
import functools
import subprocess
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from support.environments import FASTMCP, ROOT, python_environment

# The first one of a kind makes its environment.
pytestmark = pytest.mark.timeout(1300)

INSIDE = Path(__file__).parent / "inside"


def inside_tests() -> list[str]:
    return [
        f"{path.stem}::{node.name}"
        for path in sorted(INSIDE.glob("test_*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


@functools.cache
def results() -> dict[str, list[str | None]]:
    """By test, what its runs failed with; None for a run that passed."""
    python = python_environment("fastmcp", *FASTMCP)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        done = subprocess.run(
            [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(INSIDE)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert report.exists(), done.stdout + done.stderr
        found: dict[str, list[str | None]] = {}
        for case in ElementTree.parse(report).iter("testcase"):
            name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '').partition('[')[0]}"
            problem = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
            found.setdefault(name, []).append(None if problem is None else f"{problem.get('message')}\n{problem.text}")
        return found


@pytest.mark.parametrize("name", inside_tests())
def test_inside(name: str) -> None:
    runs = results().get(name)
    assert runs, "it did not run"
    assert not [run for run in runs if run is not None], "\n".join(run for run in runs if run is not None)
