"""The public API in the eyes of a user's tools: mypy --strict, pyright in strict mode, and an editor's hover."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, get_overloads

import pytest

from raincheck import Policy, Raincheck

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("public_api.py")
PROGRAMS = Path(sys.executable).parent

REFUSED = """\
from raincheck import Policy, Raincheck
from raincheck.client.sync import SyncClient

rc = Raincheck(tool="slow_*")  # wrong
Policy(mode="background")  # wrong


@rc.operation(isolation="thread")  # wrong
def misplaced(topic: str) -> str:
    return topic


@rc.operation(timeout="300")  # wrong
def misnamed(topic: str) -> str:
    return topic


@rc.operation(mode="task")
def right(topic: str) -> str:
    return topic


right(1)  # wrong


def without_asyncio(client: SyncClient) -> None:
    client.run(1)  # wrong
    client.status("ref", wait="1")  # wrong
"""
WRONG = {number for number, line in enumerate(REFUSED.splitlines(), 1) if line.endswith("# wrong")}


@pytest.fixture
def refused(tmp_path: Path) -> Path:
    program = tmp_path / "refused.py"
    program.write_text(REFUSED)
    return program


def keywords() -> set[str]:
    """What the sample program passes by name, to whatever."""
    found = ast.walk(ast.parse(PROGRAM.read_text(encoding="utf-8")))
    return {each.arg for each in found if isinstance(each, ast.keyword) and each.arg is not None}


def test_every_setting_of_an_operation_is_typed_and_stands_in_the_sample() -> None:
    (bare, given) = get_overloads(Raincheck.operation)
    assert bare is not given
    typed = set(given.__annotations__) - {"return"}
    assert {each.name for each in fields(Policy)} <= typed
    assert typed <= keywords()


def test_mypy_takes_the_sample_and_finds_what_is_wrong(refused: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(ROOT / ".mypy_cache")]
    done = subprocess.run([*command, str(PROGRAM), str(refused)], cwd=tmp_path, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert not [line for line in lines if PROGRAM.name in line]
    found = {int(at[1]) for line in lines if (at := re.search(rf"{refused.name}:(\d+): error", line))}
    assert found == WRONG, done.stdout + done.stderr


def test_pyright_takes_the_sample_and_finds_what_is_wrong(refused: Path, tmp_path: Path) -> None:
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    (tmp_path / PROGRAM.name).write_text(PROGRAM.read_text(encoding="utf-8"))
    command = [str(PROGRAMS / "basedpyright"), "--outputjson", "--level", "error", "--pythonpath", sys.executable]
    done = subprocess.run([*command, "--project", str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)["generalDiagnostics"]
    assert not [each for each in found if each["file"].endswith(PROGRAM.name)]
    assert {each["range"]["start"]["line"] + 1 for each in found} == WRONG


class Editor:
    """An editor's side of the language server protocol, as far as hovering takes."""

    def __init__(self, server: subprocess.Popen[bytes]) -> None:
        self._server = server
        self._asked = 0

    def send(self, **message: Any) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._server.stdin is not None
        self._server.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._server.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        length = 0
        while head := self._server.stdout.readline().strip().lower():
            if head.startswith(b"content-length:"):
                length = int(head.partition(b":")[2])
        return json.loads(self._server.stdout.read(length))

    def ask(self, method: str, **params: Any) -> Any:
        self._asked += 1
        self.send(id=self._asked, method=method, params=params)
        while True:
            message = self._read()
            if "method" not in message and message.get("id") == self._asked:
                return message["result"]
            if "method" in message and "id" in message:
                # It asks for its settings: the defaults of each.
                wanted: dict[str, list[Any]] = message.get("params") or {}
                self.send(id=message["id"], result=[{} for _ in wanted.get("items", [])])

    def hover(self, file: Path, text: str) -> str:
        """What is shown over the last character of the first such text."""
        source = file.read_text(encoding="utf-8")
        at = source.index(text) + len(text) - 1
        before = source[:at]
        position = {"line": before.count("\n"), "character": at - before.rfind("\n") - 1}
        shown = self.ask("textDocument/hover", textDocument={"uri": file.as_uri()}, position=position)
        return shown["contents"]["value"]


@contextmanager
def editor(folder: Path, file: Path) -> Generator[Editor]:
    command = [str(PROGRAMS / "basedpyright-langserver"), "--stdio"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            it = Editor(server)
            root = folder.as_uri()
            opened = [{"uri": root, "name": "office"}]
            it.ask("initialize", processId=os.getpid(), rootUri=root, workspaceFolders=opened, capabilities={})
            it.send(method="initialized", params={})
            text = file.read_text(encoding="utf-8")
            document = {"uri": file.as_uri(), "languageId": "python", "version": 1, "text": text}
            it.send(method="textDocument/didOpen", params={"textDocument": document})
            yield it
        finally:
            server.kill()


def test_an_editor_shows_what_a_user_needs_and_no_inner_name() -> None:
    texts = ("rc = Raincheck", "@rc.operation", "rc.lifespan", "= Policy")
    with editor(ROOT, PROGRAM) as it:
        shown = {text: it.hover(PROGRAM, text) for text in texts}
    for told in shown.values():
        assert "TaskHost" not in told
        assert "raincheck.mcp" not in told
    for argument in ("tools", "store", "results", "policy", "settings", "webhooks"):
        assert f"    {argument}: " in shown["rc = Raincheck"].partition("Args:")[2]
    for member in ("isolation: Isolation", "max_wait_ceiling_seconds: float"):
        assert member in shown["@rc.operation"]
