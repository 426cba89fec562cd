"""Options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from raincheck.config.program import names_object
from raincheck.errors import ConfigurationError

if TYPE_CHECKING:
    from raincheck.config.settings import Settings

_F = TypeVar("_F", bound=Callable[..., Any])
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """A callback for options that hold a length of time (`90s`, `45m`, `12h`, `30d`, `2w`): its seconds."""
    found = re.fullmatch(r"(\d{1,6})([smhdw])", value or "")
    if value is None or found is not None:
        return float(found[1]) * _SECONDS[found[2]] if found else None
    raise click.BadParameter(f"{value[:40]!r} is no duration; allowed: a number and s, m, h, d or w, as in 12h")


class _TargetType(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  of click 8.4 and newer
    """A configuration file or `MODULE:RAINCHECK`; a shell completes it as a file."""

    name = "target"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


TARGET = _TargetType()
"""The type of what names a configuration, or the Raincheck object of a server in Python."""


class TargetGroup(click.Group):
    """Commands about one target, which may stand before them: `raincheck tasks office:rc list`.

    Args:
        default: The command that is meant where none is named.
    """

    def __init__(self, *args: Any, default: str, **kwargs: Any) -> None:
        super().__init__(*args, subcommand_metavar="[CONFIG | MODULE:RAINCHECK] [COMMAND] [ARGS]...", **kwargs)
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the target off; `--config` of the commands defaults to it."""
        if args and args[0] not in self.commands and (is_object(args[0]) or args[0].endswith(".toml")):
            ctx.obj, args = args[0], args[1:]
        bare = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        if bare and not ctx.resilient_parsing:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def is_object(text: str) -> bool:
    """Whether it reads as `MODULE:RAINCHECK`, and is no file."""
    return names_object(text) and not os.path.exists(text)


def or_the_groups(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A callback for what names a target: without one, the target that stands before the command."""
    given: str | None = context.obj
    return value or given


def config_option(command: _F) -> _F:
    """`--config [FILE | MODULE:RAINCHECK]`."""
    return click.option(
        "--config",
        metavar="[FILE | MODULE:RAINCHECK]",
        type=TARGET,
        callback=or_the_groups,
        help="The configuration, or the Raincheck object of a server in Python; default: raincheck.toml in this "
        "folder, if there, else the one store of the programs in it.",
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


def settings_from(
    config: str | None, *, state_url: str | None = None, required: bool = False, **flags: Any
) -> Settings:
    """The settings, with what the flags say; each of `flags` is `section__key=value`, None where it was not given.

    Raises:
        ConfigurationError: Something is wrong in the file, the environment or the flags; or (`required`) there is no
            file.
    """
    from raincheck.config.loading import load_settings, nothing_here

    if state_url and "://" not in state_url and not state_url.startswith("~"):
        # What is typed on a command line is relative to where it is typed.
        state_url = os.path.abspath(state_url)  # Path.absolute would keep `..`.
    overrides = {name.replace("__", ".", 1): value for name, value in flags.items()}
    overrides["state.url"] = state_url
    settings = load_settings(Path(config) if config is not None else None, environ=os.environ, overrides=overrides)
    if required and config is None and (missing := nothing_here(Path.cwd())) is not None:
        raise ConfigurationError(missing)
    return settings
