"""`raincheck advise`: which policy fits each operation, by its own history in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from raincheck.cli.options import TARGET, json_option, state_url_option
from raincheck.cli.output import clean, document, print_table
from raincheck.cli.stdout import others_on_stderr
from raincheck.cli.target import target_with_store

if TYPE_CHECKING:
    from raincheck.cli.advice import Advice
    from raincheck.config.settings import Settings
    from raincheck.operations.operation import Policy
    from raincheck.polling.history import History
    from raincheck.ports.task_store import TaskStore


@click.command()
@click.argument("config", required=False, metavar="[CONFIG | MODULE:RAINCHECK]", type=TARGET)
@state_url_option
@json_option
def advise(config: str | None, state_url: str | None, as_json: bool) -> None:
    """Read how long tasks took and how they ended, and say which policy fits each operation of the store.

    Prints the figures, the reasons, and lines for the configuration. Changes nothing.

    \b
    Examples:
      raincheck advise
      raincheck advise reports.toml --json
      raincheck advise office:rc
    """
    from raincheck.cli.advice import advice_on
    from raincheck.cli.tasks import at_store

    target = target_with_store(config, state_url)
    settings = target.settings
    with others_on_stderr():
        policies = asyncio.run(target.policies())
    histories = at_store(target, _histories)
    advices = [advice_on(each, policies.get(each.operation_type)) for each in histories]
    unheard = [name for name in policies if name not in {each.operation_type for each in histories}]
    if as_json:
        told = [_json(each, policies.get(each.operation_type)) for each in advices]
        document({"source": settings.source, "operations": told, "without_history": unheard})
    else:
        _print(advices, policies, unheard, settings)


async def _histories(store: TaskStore) -> list[History]:
    from raincheck.polling.history_store import stored_histories

    return sorted([each async for each in stored_histories(store)], key=lambda each: each.operation_type)


def toml_lines(advice: Advice) -> list[str]:
    """What is advised, as it stands in raincheck.toml; what only a person can fill in is commented out."""
    from raincheck.config.settings import table_name

    lines = [table_name("operations", advice.operation_type)]
    lines += [f"{key} = {_toml(value)}" for key, value in advice.settings().items()]
    if advice.row == "ticket + webhook":
        lines += ["", f"# {table_name('operations', advice.operation_type, 'webhook')}", '# url = "https://…"']
    if advice.breaker:
        # Above what is normal for it, so that it opens where things are worse than they ever were.
        rate = min(0.95, max(0.5, round(advice.failure_share * 1.5, 2)))
        lines += ["", table_name("operations", advice.operation_type, "breaker"), f"failure_rate = {rate:g}"]
    return lines


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value:.10g}"


def _json(advice: Advice, present: Policy | None) -> dict[str, Any]:
    told = {key: _shortened(value) for key, value in asdict(advice).items()}
    now = None
    if present is not None:
        now = {key: getattr(present, key) for key in ("mode", "inline_wait_seconds", "timeout_seconds")}
        now["breaker"], now["webhook"] = present.breaker is not None, present.webhook is not None
    return {**told, "present": now, "toml": "\n".join(toml_lines(advice)) + "\n" if advice.enough else None}


def _shortened(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _print(
    advices: list[Advice], policies: Mapping[str, Policy], without_history: list[str], settings: Settings
) -> None:
    if not advices:
        click.echo("No history yet: no task has ended in this store.")
    else:
        columns = ["OPERATION", "ENDS", "P50", "P95", "P99.9", "FAILED", "QUEUE P95", "ADVICE"]
        print_table(columns, [_row(each) for each in advices])
    for each in advices:
        click.echo(f"\n{clean(each.operation_type)}: {_headline(each)}")
        for reason in each.why:
            click.echo(f"  - {clean(reason)}")
        if (present := policies.get(each.operation_type)) is not None and each.enough:
            click.echo(f"  now: {_present(present)}")
        if each.enough:
            click.echo("\n" + "\n".join(f"    {line}".rstrip() for line in toml_lines(each)))
    if without_history:
        names = ", ".join(clean(name) for name in without_history)
        click.echo(f"\nno history: {names} (of {clean(settings.source)}; operations of mode inline never have any)")


def _row(advice: Advice) -> list[str]:
    return [
        advice.operation_type,
        str(advice.ends),
        *(_seconds(each) for each in (advice.p50, advice.p95, advice.p999)),
        f"{advice.failure_share:.1%}",
        _seconds(advice.queue_p95),
        _headline(advice),
    ]


def _headline(advice: Advice) -> str:
    if not advice.enough:
        return "too little history"
    return f"{advice.row}, breaker in front" if advice.breaker else str(advice.row)


def _present(policy: Policy) -> str:
    seconds = policy.inline_wait_seconds
    shown = seconds if seconds == "auto" else f"{seconds:g}"
    wait = f", inline_wait_seconds {shown}" if policy.mode == "auto" else ""
    timeout = "unset" if policy.timeout_seconds is None else f"{policy.timeout_seconds:g}"
    breaker = ", a breaker" if policy.breaker is not None else ""
    return f"mode {policy.mode}{wait}, timeout_seconds {timeout}{breaker}"


def _seconds(value: float | None) -> str:
    from raincheck.cli.advice import said

    return "?" if value is None else said(value)
