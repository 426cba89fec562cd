"""`raincheck init`: a configuration file to begin with, the function that it serves, and the schema for editors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from raincheck.cli.output import clean
from raincheck.cli.schema import SCHEMA_FILE, settings_schema
from raincheck.config.loading import DEFAULT_FILE
from raincheck.errors import ConfigurationError, RaincheckError

_FUNCTIONS_FILE = "slow_tools.py"

_CONFIGURATION = r"""#:schema raincheck.schema.json
# What this server offers to agents. `raincheck check` says whether it can be served, `raincheck serve` serves it.
# Every key: docs/configuration.md, or your editor, by the schema in the first line (`raincheck schema` prints it anew).

[server]
name = "slow-tools"                 # as clients show it
# transport = "streamable-http"     # clients connect to http://127.0.0.1:8000/mcp; default: they start it, on stdio
# port = 8000

# [state]
# url = "tasks.db"                  # where tasks are kept; default: a file of its own in your state folder

# A Python function in slow_tools.py, beside this file: the parameters come from its signature.
[operations.count_words]
kind = "python"
target = "slow_tools:count_words"
timeout_seconds = 300               # one attempt; default: 120
# mode = "task"                     # always answer with a ticket; default: the result where it is there within seconds
# isolation = "process"             # a process of its own, which can be killed: for code that may hang
# on_worker_lost = "retry"          # it is harmless to run it again; default: it never starts twice

# A program: no shell, and {file} stays one argument, whatever it holds.
# [operations.checksum]
# kind = "command"
# argv = ["cksum", "--", "{file}"]
# parameters = {file = {type = "string", description = "Path of the file."}}
# description = "The CRC checksum and the size of a file."
# cwd = "."                         # this file's folder; default: an empty one of its own
# progress = '(?P<percent>\d+)%'    # how its stderr says how far it is

# An HTTP API: {city} is a parameter, ${NAME} an environment variable of this server.
# [operations.forecast]
# kind = "http"
# url = "http://127.0.0.1:8700/forecast/{city}"
# parameters = {city = {type = "string"}}
# description = "Forecast the weather of a city."
"""

_FUNCTIONS = '''"""The functions that raincheck.toml serves: ordinary ones, as slow as they need to be."""

import asyncio

from raincheck import TaskContext


async def count_words(pages: list[str], context: TaskContext) -> dict[str, int]:
    """Count the words of a document, page by page."""
    words = 0
    for number, page in enumerate(pages, 1):
        await asyncio.sleep(1)  # the slow part
        words += len(page.split())
        await context.progress(number / len(pages), f"page {number} of {len(pages)}")
    return {"pages": len(pages), "words": words}
'''


@click.command()
@click.argument("folder", required=False, default=".", type=click.Path(file_okay=False, path_type=Path))
def init(folder: Path) -> int:
    """Write a raincheck.toml to begin with, and the function that it serves, into FOLDER (default: this one).

    Nothing is ever overwritten.

    \b
    Example:
      raincheck init tools
    """
    files = {
        DEFAULT_FILE: _CONFIGURATION,
        _FUNCTIONS_FILE: _FUNCTIONS,
        SCHEMA_FILE: f"{json.dumps(settings_schema(), indent=2)}\n",
    }
    for name in files:
        if os.path.lexists(folder / name):
            raise ConfigurationError(
                f"{folder / name} is there already, and nothing was written: choose another folder"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise RaincheckError(f"cannot write into {folder}: {error.strerror or error}") from None
    click.echo(f"wrote {', '.join(clean(str(folder / name)) for name in files)}")
    config = clean(str(folder / DEFAULT_FILE))
    click.echo(f"next: raincheck check {config}")
    click.echo(f"      raincheck serve {config} --transport streamable-http")
    return 0
