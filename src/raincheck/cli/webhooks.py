"""`raincheck tasks webhooks`: the deliveries that are pending or were given up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from raincheck.cli.options import TargetGroup, config_option, json_option, state_url_option
from raincheck.cli.output import document, print_table, span, timestamp
from raincheck.cli.target import target_from, target_with_store
from raincheck.cli.tasks import at_store, tasks

if TYPE_CHECKING:
    from raincheck.webhooks.admin import Entry

_F = TypeVar("_F", bound=Callable[..., Any])

# A task_ref may begin with a dash: it must not be taken for an option.
_REF_SETTINGS = {"ignore_unknown_options": True}
_LONGEST_LIST = 100_000


def _common(command: _F) -> _F:
    return json_option(config_option(state_url_option(command)))


@tasks.group(cls=TargetGroup, default="list")
def webhooks() -> None:
    """See which webhooks are not delivered yet or were given up, and have them tried again.

    \b
    Examples:
      raincheck tasks webhooks list --state dead
      raincheck tasks webhooks retry --all
    """


@webhooks.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(("pending", "dead")), help="Only these.")
@click.option("--limit", type=click.IntRange(1, _LONGEST_LIST), default=50, show_default=True, help="How many at most.")
@_common
def list_(states: tuple[str, ...], limit: int, as_json: bool, config: str | None, state_url: str | None) -> None:
    """List the deliveries that were given up (dead), and those that are pending.

    \b
    Example:
      raincheck tasks webhooks list --state dead --json | jq -r '.[].task_ref'
    """
    from raincheck.webhooks.admin import DeliveryAdmin

    target = target_with_store(config, state_url)
    found = at_store(target, lambda store: DeliveryAdmin(store).list(states=states, limit=limit))
    if as_json:
        document([_json(entry) for entry in found])
    elif found:
        _print(found, limit)
    else:
        click.echo("No deliveries.")


@webhooks.command(context_settings=_REF_SETTINGS)
@click.argument("task_ref", required=False)
@click.option("--all", "everything", is_flag=True, help="Every delivery that was given up.")
@_common
def retry(task_ref: str | None, everything: bool, as_json: bool, config: str | None, state_url: str | None) -> None:
    """Try the deliveries of a task again, or (--all) every one that was given up. A running server makes them.

    \b
    Examples:
      raincheck tasks webhooks retry 8Zr1x
      raincheck tasks webhooks retry --all
    """
    from raincheck.webhooks.admin import DeliveryAdmin

    if (task_ref is None) is not everything:
        raise click.UsageError("give either a TASK_REF or --all")
    target = target_with_store(config, state_url)
    if task_ref is None:
        number = at_store(target, lambda store: DeliveryAdmin(store).retry_dead())
    else:
        number = at_store(target, lambda store: DeliveryAdmin(store).retry(task_ref))
    if as_json:
        document({"retried": number})
    else:
        click.echo(f"{number} deliver{'y' if number == 1 else 'ies'} will be tried again")


@webhooks.command()
@click.argument("url")
@_common
def secret(url: str, as_json: bool, config: str | None, state_url: str | None) -> None:
    """Print the secrets that the receiver at an address verifies signatures with, the newest first.

    They are made of `secrets` in [webhooks], for the scheme, host and port of the address: no receiver can sign for
    another one. An operation's own `secrets` are used as they are.

    \b
    Example:
      raincheck tasks webhooks secret https://hooks.example.com/
    """
    from raincheck.composition.adapters import require_signing, service_settings
    from raincheck.errors import InvalidParameters

    settings = target_from(config, state_url=state_url).settings
    require_signing()
    from raincheck.webhooks.signing import secrets_of

    shared = service_settings(settings).webhooks.secrets
    if not shared:
        raise InvalidParameters(f"there are no 'secrets' in [webhooks] of {settings.source}")
    made = secrets_of(shared, url)
    if as_json:
        document({"secrets": [*made]})
    else:
        click.echo("\n".join(made))


def _json(entry: Entry) -> dict[str, Any]:
    delivery = entry.delivery
    return {
        "task_ref": delivery.task_ref,
        "operation_type": delivery.operation_type,
        "event": delivery.event,
        "state": entry.state,
        "hosts": list(entry.hosts),
        "attempts": delivery.attempts,
        "last_error": delivery.error,
        "since": timestamp(delivery.since),
        "due_at": timestamp(entry.due_at),
        "died_at": timestamp(delivery.died_at),
    }


def _print(found: list[Entry], limit: int) -> None:
    from raincheck.timing.clock import utc_now

    now = utc_now()

    def row(entry: Entry) -> list[str]:
        delivery = entry.delivery
        when = ""
        if delivery.died_at is not None:
            when = f"{span((now - delivery.died_at).total_seconds())} ago"
        elif entry.due_at is not None:
            when = f"in {span((entry.due_at - now).total_seconds())}"
        target = ", ".join(entry.hosts)
        return [
            delivery.task_ref,
            delivery.operation_type,
            delivery.event,
            target,
            entry.state,
            str(delivery.attempts),
            when,
            delivery.error or "",
        ]

    print_table(["TASK_REF", "OPERATION", "EVENT", "TO", "STATE", "ATTEMPTS", "WHEN", "LAST ERROR"], [*map(row, found)])
    if len(found) == limit:
        click.echo(f"(the first {limit}; --limit shows more)", err=True)
