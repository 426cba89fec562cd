"""`raincheck check`: everything that `serve` would need, loaded and shown, and nothing served."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from raincheck.cli.options import json_option, settings_from, state_url_option
from raincheck.cli.tables import clean, document, print_table, span
from raincheck.config_auth import hash_token as hash_of_token
from raincheck.config_auth import is_loopback
from raincheck.errors import ConfigurationError, RaincheckError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from raincheck.config import Settings
    from raincheck.operations.operation import Operation
    from raincheck.operations.webhook import Webhook

__all__ = ["check", "warnings"]

_PATIENCE_SECONDS = 60


@click.command()
@click.argument("config", required=False)
@state_url_option
@click.option(
    "--hash-token", is_flag=True, help="Read a bearer token (typed, or from stdin), print its hash for [server.auth]."
)
@json_option
def check(config: str | None, state_url: str | None, hash_token: bool, as_json: bool) -> int:
    """Load everything that CONFIG names, and show what would be served.

    Imports the functions, compiles the schemas, looks for the programs, and opens the store (which makes its file).
    Exit code 0: all of it can be served; 2: it cannot, and one line says why.

    \b
    Examples:
      raincheck check
      raincheck check reports.toml --json
      raincheck check --hash-token < token.txt
    """
    if hash_token:
        return _print_hash()
    try:
        report = _report(settings_from(config, state_url=state_url))
    except RaincheckError as error:
        if as_json:
            document({"ok": False, "error": error.message})
        click.echo(f"raincheck: {clean(error.message)}", err=True)
        return 2
    if as_json:
        document(report)
    else:
        _print(report)
    return 0


def warnings(settings: Settings, operations: Mapping[str, Operation]) -> list[str]:
    """What is allowed, but perhaps not meant."""
    from raincheck.operations.secret_names import secrets_of_nothing

    found: list[str] = []
    server = settings.server
    if not operations:
        found.append(
            f"{settings.source} declares no operation: clients would find the handle tools and no work for them"
        )
    if server.transport != "stdio" and not is_loopback(server.host) and server.auth is None:
        found.append(f"[server] host {server.host}: whoever reaches this address may call every operation")
    if settings.state.provider == "memory":
        found.append('[state] provider "memory": every task is lost when the server ends')
    if settings.execution.max_concurrency == 0:
        found.append("[execution] max_concurrency 0: this server only accepts tasks; `raincheck worker` runs them")
    for name, operation in operations.items():
        policy = operation.policy
        if not operation.description.strip():
            found.append(f"operation {name} has no description: a model would not know when to use it")
        found += secrets_of_nothing(operation)
        if policy.timeout_seconds is not None and policy.timeout_seconds > policy.default_max_wait_seconds:
            found.append(
                f"operation {name}: its deadline ({policy.default_max_wait_seconds:g} s) comes before its timeout "
                f"({policy.timeout_seconds:g} s); raise default_max_wait_seconds"
            )
        if policy.mode == "inline" and policy.attempt_seconds > _PATIENCE_SECONDS:
            found.append(
                f'operation {name}: mode "inline" with a timeout of {policy.attempt_seconds:g} s is longer than most '
                'clients wait; use "auto"'
            )
    return found


def _report(settings: Settings) -> dict[str, Any]:
    from raincheck.compose import make_engine, place_of, require_server, service_settings
    from raincheck.compose_operations import make_operations

    require_server()
    from raincheck.mcp.auth import make_verifier
    from raincheck.mcp.handle_definitions import HANDLE_TOOLS

    make_verifier(settings, os.environ)
    operations = make_operations(settings)
    _check_machine(settings, operations)
    make_engine(settings)
    service_settings(settings)
    kept = asyncio.run(_stored_tasks(settings))
    store, engine = place_of(settings)
    return {
        "ok": True,
        "source": settings.source,
        "server": settings.server.model_dump(include={"name", "version", "transport", "host", "port"}),
        "callers": _callers(settings),
        "state": {
            "provider": settings.state.provider,
            "place": store,
            "file": str(settings.database) if settings.state.provider == "sqlite" else None,
            "tasks": kept,
        },
        "engine": {"name": settings.execution.engine, "place": engine},
        "operations": [
            {
                "operation_type": name,
                "kind": settings.operations[name].kind,
                "title": operation.title,
                "description": operation.description,
                "parameters": operation.executor.parameters_schema,
                **asdict(replace(operation.policy, webhook=None)),
                "webhook": _webhook(operation.policy.webhook),
            }
            for name, operation in operations.items()
        ],
        "handle_tools": [tool.name for tool in HANDLE_TOOLS],
        "warnings": warnings(settings, operations),
    }


def _webhook(webhook: Webhook | None) -> dict[str, Any] | None:
    """Its host only: the rest may hold secrets."""
    return webhook and {"host": webhook.host, "events": list(webhook.events)}


def _callers(settings: Settings) -> dict[str, Any]:
    """Who may call: names only, never a hash."""
    server = settings.server
    auth = None if server.transport == "stdio" else server.auth
    return {
        "authenticated": auth is not None,
        "tokens": list(auth.tokens) if auth else [],
        "issuer": auth.issuer if auth else None,
    }


def _print_hash() -> int:
    token = click.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    try:
        click.echo(hash_of_token(token.strip()))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return 0


def _check_machine(settings: Settings, operations: Mapping[str, Operation]) -> None:
    """Ask the kinds that depend on the machine (programs, folders) whether it has what they need."""
    from raincheck.config import table_name

    for name, operation in operations.items():
        look: Callable[[], list[str]] | None = getattr(operation.executor, "check", None)
        for problem in look() if look else []:
            raise ConfigurationError(f"{table_name('operations', name)} of {settings.source}: {problem}")


async def _stored_tasks(settings: Settings) -> int:
    from raincheck.compose import make_store

    store = make_store(settings)
    await store.open()
    try:
        return sum((await store.count()).values())
    finally:
        await store.close()


def _print(report: Mapping[str, Any]) -> None:
    server, state = report["server"], report["state"]
    where = "stdio" if server["transport"] == "stdio" else f"{server['transport']} on {server['host']}:{server['port']}"
    click.echo(f"{clean(report['source'])}: {clean(server['name'])} {clean(server['version'])} over {clean(where)}")
    if server["transport"] != "stdio":
        click.echo(f"callers: {clean(_callers_in_words(report['callers']))}")
    kept = f"{state['tasks']} task{'s' * (state['tasks'] != 1)} kept"
    click.echo(f"store: {clean(state['place'])} ({kept})")
    click.echo(f"engine: {clean(report['engine']['place'])}\n")
    columns = ["OPERATION", "KIND", "MODE", "TIMEOUT", "DEADLINE", "KEPT", "WORKER LOST", "DESCRIPTION"]
    if report["operations"]:
        print_table(columns, [_row(operation) for operation in report["operations"]])
        click.echo()
    click.echo(f"handle tools: {', '.join(report['handle_tools'])}")
    for warning in report["warnings"]:
        click.echo(f"warning: {clean(warning)}")


def _callers_in_words(callers: Mapping[str, Any]) -> str:
    if not callers["authenticated"]:
        return "anybody, without a token"
    named = [f"with a token: {', '.join(callers['tokens'])}"] if callers["tokens"] else []
    return "; ".join(named + ([f"with a JWT of {callers['issuer']}"] if callers["issuer"] else []))


def _row(operation: Mapping[str, Any]) -> list[str]:
    description = " ".join(operation["description"].split())
    return [
        operation["operation_type"],
        operation["kind"],
        operation["mode"],
        "none" if operation["timeout_seconds"] is None else span(operation["timeout_seconds"]),
        span(operation["default_max_wait_seconds"]),
        span(operation["ttl_seconds"]),
        operation["on_worker_lost"],
        description if len(description) <= 60 else f"{description[:59]}…",
    ]
