"""Options that several commands share, and the settings that they lead to."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from raincheck.config import Settings

__all__ = ["config_option", "duration", "json_option", "settings_from", "state_url_option"]

_F = TypeVar("_F", bound=Callable[..., Any])
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """A callback for options that hold a length of time (`90s`, `45m`, `12h`, `30d`, `2w`): its seconds."""
    found = re.fullmatch(r"(\d{1,6})([smhdw])", value or "")
    if value is None or found is not None:
        return float(found[1]) * _SECONDS[found[2]] if found else None
    raise click.BadParameter(f"{value[:40]!r} is no duration; allowed: a number and s, m, h, d or w, as in 12h")


def config_option(command: _F) -> _F:
    """`--config FILE`."""
    return click.option(
        "--config", metavar="FILE", help="The configuration; default: raincheck.toml in this folder, if there."
    )(command)


def state_url_option(command: _F) -> _F:
    """`--state-url URL`."""
    return click.option(
        "--state-url",
        metavar="URL",
        help="Where the tasks are kept, in place of the configured place: a file, or a store's address.",
    )(command)


def json_option(command: _F) -> _F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")(command)


def settings_from(config: str | None, *, state_url: str | None = None, **flags: Any) -> Settings:
    """The settings, with what the flags say; each of `flags` is `section__key=value`, None where it was not given.

    Raises:
        ConfigurationError: Something is wrong in the file, the environment or the flags.
    """
    from raincheck.config_sources import load_settings

    if state_url and "://" not in state_url and not state_url.startswith("~"):
        # What is typed on a command line is relative to where it is typed.
        state_url = os.path.abspath(state_url)  # Path.absolute would keep `..`.
    overrides = {name.replace("__", ".", 1): value for name, value in flags.items()}
    overrides["state.url"] = state_url
    return load_settings(Path(config) if config is not None else None, environ=os.environ, overrides=overrides)
