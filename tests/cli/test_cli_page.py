"""docs/cli.md has a heading for every command and a row for every flag, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import click

from raincheck.cli.main import cli
from support.command_line import commands

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_every_command_and_every_flag_is_on_the_page_and_no_other() -> None:
    _, *sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    documented = {section.split("\n", 1)[0]: section for section in sections}
    documented.pop("Completion")
    known = {" ".join(("raincheck", *path)): command for path, command in commands(cli) if path}
    assert set(documented) == set(known)
    for name, command in known.items():
        flags = {name for each in command.params if isinstance(each, click.Option) for name in each.opts}
        rows = re.findall(r"^\| (`--[^|]+) \|", documented[name], flags=re.MULTILINE)
        listed = {flag for row in rows for flag in re.findall(r"--[a-z-]+", row)}
        if isinstance(command, click.Group):
            # What its commands have in common.
            flags = set[str]() if name == "raincheck worker" else {"--config", "--state-url", "--json"}
        assert listed == flags, name
        assert set(re.findall(r"--[a-z-]+", documented[name].split("\n")[2])) <= flags | {"--json"}
