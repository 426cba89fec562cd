"""The command `raincheck`: sub-commands imported on call, and their errors as lines and exit codes.

Exit codes: 0, 1 (failed), 2 (usage or configuration). Errors are one line on stderr.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import importlib
import sys
from collections.abc import Sequence

import click

from raincheck._version import __version__
from raincheck.cli.stdout import give_up_stdout, have_stdout, leave_stdout
from raincheck.errors import ConfigurationError, MissingDependency, RaincheckError
from raincheck.runtime.startup import without_collections

_COMMANDS = {
    "init": "raincheck.cli.init:init",
    "serve": "raincheck.cli.serve:serve",
    "worker": "raincheck.cli.worker:worker",
    "check": "raincheck.cli.check:check",
    "schema": "raincheck.cli.schema:schema",
    "store": "raincheck.cli.store:store",
    "tasks": "raincheck.cli.webhooks:tasks",
    "advise": "raincheck.cli.advise:advise",
    "demo": "raincheck.cli.main:demo",
}


class _LazyGroup(click.Group):
    """Imports a sub-command's module when it is asked for; lists them in the order in which people meet them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        with without_collections():
            command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="raincheck")
def cli() -> None:
    """Slow tools for AI agents: a ticket now, the result when it is ready.

    \b
    See it work:            raincheck demo
    Begin:                  raincheck init (docs/configuration.md)
    Look before you serve:  raincheck check
    Serve them over MCP:    raincheck serve
    Run them elsewhere:     raincheck worker
    Look after the store:   raincheck store check
    Follow the tasks:       raincheck tasks list
    Fit the policies:       raincheck advise
    """


@click.command()
def demo() -> int:
    """Show slow tools, a kill -9 in mid-work, and every result.

    \b
    Example:
      raincheck demo
    """
    from raincheck.composition.adapters import require_server

    require_server()
    from raincheck.cli import demo as story

    return story.main()


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Without `args` it is that of this process."""
    have_stdout()
    code = _run(args)
    if args is None:
        # The last one that is registered is the first one that is called.
        atexit.register(leave_stdout)
    return code


def _run(args: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        # A task may hold any text; a terminal that cannot show it must not end the command.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        code = cli.main(args, prog_name="raincheck", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        return _usage(error)
    except (ConfigurationError, MissingDependency) as error:
        return _say(error.message, 2)
    except RaincheckError as error:
        return _say(error.message, 1)
    except click.Abort:
        return _say("stopped", 1)
    except SystemExit as end:  # The reader of the output has gone: click ends so, without a word.
        give_up_stdout()
        return end.code if isinstance(end.code, int) else 1
    except OSError as error:
        give_up_stdout()
        if error.errno == errno.EPIPE:
            return 1
        what = "cannot write" if error.filename is None else f"cannot use {error.filename}"
        return _say(f"{what}: {error.strerror or error}", 1)
    return code if isinstance(code, int) else 0


def _usage(error: click.ClickException) -> int:
    context = error.ctx if isinstance(error, click.UsageError) else None
    if type(error).__name__ == "NoArgsIsHelpError":  # Of click 8.2 and newer.
        error.show()
        return 2
    help_of = f" (see {context.command_path} --help)" if context else ""
    return _say(f"{error.format_message()}{help_of}", 2)


def _say(message: str, code: int) -> int:
    from raincheck.domain.logs import printable

    with contextlib.suppress(OSError):  # Where stderr is closed, the exit code tells.
        print(f"raincheck: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
    return code
