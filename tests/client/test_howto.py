"""The page for clients: its examples run, its tables are those of the code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from docs.pages import DOCS, EXAMPLES, table

from raincheck.client.errors import ClientError
from raincheck.client.policy import PollingPolicy

PAGE = DOCS / "clients-howto.md"
RESULT = "{'topic': 'rain', 'pages': 3}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(EXAMPLES / "serve", tmp_path / "office")
    return tmp_path / "office"


def start(example: str, folder: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAINCHECK")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    # Nothing that a test started is to run on after it.
    environment["RAINCHECK_EXECUTION__OUTLIVE_CLIENT"] = "false"
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / example)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said_by(example: str, folder: Path) -> list[str]:
    process = start(example, folder)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    return out.splitlines()


@pytest.mark.parametrize("example", ["client_script.py", "client_call_tool.py"])
def test_the_example_follows_a_report_to_its_result(example: str, folder: Path) -> None:
    said = said_by(example, folder)
    assert said[-2:] == ["completed", f"result: {RESULT}"]
    assert "processing" in said


def test_the_agent_gets_both_reports(folder: Path) -> None:
    assert said_by("client_agent.py", folder) == [
        'result: {"topic": "rain", "pages": 3}',
        'result: {"topic": "snow", "pages": 1}',
    ]


def test_the_program_that_was_killed_resumes_when_it_is_started_again(folder: Path) -> None:
    first = start("client_resume.py", folder)
    ticket = folder / "ticket.json"
    try:
        while not (ticket.exists() and ticket.read_text().endswith("}")):
            assert first.poll() is None
            with pytest.raises(subprocess.TimeoutExpired):
                first.wait(0.02)
    finally:
        first.kill()
        first.communicate()
    assert said_by("client_resume.py", folder) == ["resumed", f"result: {RESULT}"]
    assert not ticket.exists()


def test_the_page_names_every_member_of_the_policy_and_its_default() -> None:
    rows = table(PAGE, "<!-- polling policy -->")
    assert {name: cells[0].strip("`") for name, cells in rows.items()} == {
        field.name: repr(field.default) for field in fields(PollingPolicy)
    }


def test_the_page_names_every_error_of_the_client_and_its_code() -> None:
    rows = table(PAGE, "<!-- client errors -->")
    assert {name: cells[0].strip("`") for name, cells in rows.items()} == {
        each.__name__: each.code for each in ClientError.__subclasses__()
    }
