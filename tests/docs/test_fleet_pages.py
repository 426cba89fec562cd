"""The pages on stores, engines and deployment name what there is: kinds, extras, settings, variables, commands."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import get_args

import click
import pytest
from docs.pages import DOCS, ROOT, blocks, table

from raincheck.cli.main import cli
from raincheck.config.settings import SECTION_MODELS, ExecutionSettings, StateSettings
from raincheck.runtime.health import PATHS

CHOOSING = DOCS / "stores-and-engines.md"
DEPLOYMENT = DOCS / "deployment.md"
PAGES = (CHOOSING, DEPLOYMENT)
PROVIDERS = set(get_args(StateSettings.model_fields["provider"].annotation))
ENGINES = set(get_args(ExecutionSettings.model_fields["engine"].annotation))
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])
KEYS = {key for model in SECTION_MODELS.values() for key in model.model_fields}


def test_every_store_and_engine_is_chosen_promised_and_described() -> None:
    rows = table(CHOOSING, "## Choosing\n")
    assert {re.findall(r"`(\w+)`", cells[0])[0] for cells in rows.values()} == PROVIDERS
    assert {each for cells in rows.values() for each in re.findall(r"`(\w+)`", cells[1])} == ENGINES
    text = CHOOSING.read_text(encoding="utf-8")
    heads = [set(re.findall(r"`(\w+)`", line)) for line in text.splitlines() if line.startswith("| event |")]
    assert heads == [PROVIDERS - {"memory"}, ENGINES]
    sections = set(re.findall(r"^### (\w+)$", text, re.MULTILINE))
    assert sections == (PROVIDERS | ENGINES) - {"memory", "local"}
    for section in sections - {"sqlite"}:
        assert f"The extra `{section}` ([Install]" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_extra_and_every_variable_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:raincheck|[\"'.])\[([\w,]+)\]", text)
    assert {extra for found in named for extra in found.split(",")} <= EXTRAS
    for found in re.findall(r"EXTRAS=([\w,]+)", text):
        assert set(found.split(",")) <= EXTRAS
    variables = re.findall(r"RAINCHECK_([A-Z]+)__([A-Z_]+)", text)
    assert variables
    for section, key in variables:
        assert key.lower() in SECTION_MODELS[section.lower()].model_fields


def test_every_extra_stands_in_the_install_section() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Install\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", section)) & EXTRAS == EXTRAS


def test_the_sizes_are_those_of_the_settings() -> None:
    rows = table(CHOOSING, "## Sizes\n")
    assert set(rows) == (PROVIDERS | ENGINES) - {"memory", "local", "sqlite"}
    for cells in rows.values():
        for key, default in re.findall(r"`(\w+)` \((\d+)\)", cells[1]):
            assert StateSettings.model_fields[key].default == int(default)
    for key in re.findall(r"`([a-z]+_[a-z_]+)`", CHOOSING.read_text(encoding="utf-8").split("## Sizes")[1]):
        assert key in KEYS | {"max_connections"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists_with_its_flags(page: Path) -> None:
    lines = [line for block in blocks(page) if block.language == "console" for line in block.code.splitlines()]
    inline = re.findall(r"`(raincheck [^`]+)`", page.read_text(encoding="utf-8"))
    found = [line.partition("raincheck ")[2] for line in lines if re.match(r"\$ (\w+=\S+ )*raincheck ", line)]
    found += [each.removeprefix("raincheck ") for each in inline]
    assert found
    for words in (shlex.split(each.removesuffix("&").strip()) for each in found):
        command = cli.get_command(click.Context(cli), words[0])
        while isinstance(command, click.Group):
            named = command.get_command(click.Context(command), words[1]) if words[1:] else None
            words = words[1:] if named is not None else words
            command = named or command.get_command(click.Context(command), getattr(command, "default", ""))
        assert command is not None, words
        flags = {flag for each in command.params for flag in each.opts}
        assert {word for word in words if word.startswith("--")} <= flags


def test_the_health_paths_are_those_that_are_answered() -> None:
    rows = table(DEPLOYMENT, "## Health\n")
    assert tuple(rows) == PATHS
