"""`raincheck store`: make, upgrade and check what keeps the tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from raincheck.cli.options import TargetGroup, config_option, json_option, state_url_option
from raincheck.cli.output import clean, document, timestamp
from raincheck.cli.target import Target, target_with_store

if TYPE_CHECKING:
    from raincheck.cli.store_diagnostics import Finding

_F = TypeVar("_F", bound=Callable[..., Any])


def _common(command: _F) -> _F:
    return json_option(config_option(state_url_option(command)))


@click.group(cls=TargetGroup, default="check")
def store() -> None:
    """Make, upgrade and check the store that keeps the tasks. Without a COMMAND: check.

    \b
    Examples:
      raincheck store check
      raincheck store migrate --config reports.toml
      raincheck store office:rc check
    """


@store.command()
@_common
def migrate(config: str | None, state_url: str | None, as_json: bool) -> None:
    """Make or upgrade the schema of the store, and of the queue where it has one, whatever `migrate` in [state] says.

    For deployments whose servers and workers may not change a schema: run it once before the new release, as a user who
    may. It does not wait and may run twice.

    \b
    Example:
      raincheck store migrate --config reports.toml
    """
    target, place = _target(config, state_url)
    from raincheck.cli.store_diagnostics import migrated

    did = asyncio.run(migrated(target))
    if as_json:
        document({"store": place, "did": did})
    else:
        click.echo("\n".join([f"store: {clean(place)}", *did]))


@store.command()
@_common
def check(config: str | None, state_url: str | None, as_json: bool) -> int:
    """Use the store as servers and workers do, and say what was found.

    Is it reachable, has it the schema, may tasks be written, changed and removed, whose clock counts, and what survives
    its restart. Changes no schema. Exit code 0: usable; 1: not, and a line says why.

    \b
    Example:
      raincheck store check --state-url redis://127.0.0.1:6379/0
    """
    target, place = _target(config, state_url)
    if not as_json:
        click.echo(f"store: {clean(place)}")
    findings = asyncio.run(_findings(target, show=not as_json))
    usable = all(finding.level != "failed" for finding in findings)
    if as_json:
        document({"ok": usable, "store": place, "findings": [asdict(finding) for finding in findings]})
    return 0 if usable else 1


@store.command(name="new-key")
def new_key() -> None:
    """Print a new random key for [encryption]: 32 bytes in base64, for the environment variable that `keys` names.

    \b
    Example:
      export RAINCHECK_KEY="$(raincheck store new-key)"
    """
    from raincheck.encryption.cipher import new_key as fresh

    click.echo(fresh())


@store.command()
@click.option("--forget", metavar="ID", help="Forget the key of that id: nothing sealed with it is wanted any more.")
@click.option("--close", is_flag=True, help="Refuse payloads that are not sealed, once there is none left.")
@_common
def keys(config: str | None, state_url: str | None, as_json: bool, forget: str | None, close: bool) -> int:
    """Say which keys payloads in the store may be sealed with, by their ids.

    A start is refused while one of them is missing from `keys` in [encryption]. To change the key: put the new one last
    in `keys` everywhere, then first, and when the tasks from before are gone forget the old one and take it out.

    A store that was used without keys is read with `accept_plain`. With --close it is looked through, and closed to
    plain payloads where no task has one any more (exit code 1: some have). Then take `accept_plain` out.

    \b
    Examples:
      raincheck store keys
      raincheck store keys --close
      raincheck store keys --forget 3f1c0a9b7d22
    """
    target, place = _target(config, state_url)
    from raincheck.cli.store_diagnostics import closed, known_keys

    plain = asyncio.run(closed(target)) if close else None
    found = asyncio.run(known_keys(target, forget))
    if as_json:
        listed = [{"id": key, "configured": there} for key, there in found.items()]
        document({"store": place, "keys": listed} | ({} if plain is None else {"plain_tasks": plain.number}))
        return 1 if plain and plain.number else 0
    click.echo(f"store: {clean(place)}")
    for key, there in found.items():
        click.echo(f"{key}  {'in [encryption]' if there else 'not in [encryption]'}")
    if not found:
        click.echo("no key: payloads are stored as they are")
    if plain is None:
        return 0
    if plain.number:
        click.echo(
            f"not closed: {plain.number} tasks are not sealed; the last of them is over by {timestamp(plain.until)}, "
            "and gone when its retention is"
        )
        return 1
    click.echo("closed: plain payloads are refused from the next start on; take 'accept_plain' out of [encryption]")
    return 0


async def _findings(target: Target, *, show: bool) -> list[Finding]:
    from raincheck.cli.store_diagnostics import checked

    found: list[Finding] = []
    async for finding in checked(target):
        found.append(finding)
        if show:
            click.echo(f"{finding.level:<8} {finding.name}: {clean(finding.told)}")
    return found


def _target(config: str | None, state_url: str | None) -> tuple[Target, str]:
    target = target_with_store(config, state_url)
    target.refuse_memory("there is nothing to make or to check")
    return target, target.place()[0]
