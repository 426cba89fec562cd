"""`raincheck check`: loads and shows everything that `serve` needs, without serving."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from raincheck.cli.options import TARGET, is_object, json_option, settings_from, state_url_option
from raincheck.cli.output import clean, document, print_table, span
from raincheck.cli.stdout import others_on_stderr
from raincheck.cli.target import Target, target_from
from raincheck.config.sections.auth import hash_token as hash_of_token
from raincheck.config.sections.auth import is_loopback
from raincheck.errors import RaincheckError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raincheck.config.settings import Settings
    from raincheck.mcp.host import TaskHost
    from raincheck.operations.operation import Operation
    from raincheck.operations.webhook import Webhook

_PATIENCE_SECONDS = 60


@click.command()
@click.argument("config", required=False, metavar="[CONFIG | MODULE:RAINCHECK]", type=TARGET)
@state_url_option
@click.option(
    "--hash-token", is_flag=True, help="Read a bearer token (typed, or from stdin), print its hash for [server.auth]."
)
@json_option
def check(config: str | None, state_url: str | None, hash_token: bool, as_json: bool) -> int:
    """Build all that would be served, and show it.

    Imports the functions, compiles the schemas, looks for the programs, builds the server, and opens the store (which
    makes its file). In place of a configuration MODULE:RAINCHECK names the Raincheck object of a server in Python.
    Exit code 0: all of it can be served; 2: it cannot, and one line says why.

    \b
    Examples:
      raincheck check
      raincheck check reports.toml --json
      raincheck check office:rc
      raincheck check --hash-token < token.txt
    """
    if hash_token:
        return _print_hash()
    try:
        target = _target(config, state_url)
        with others_on_stderr():
            report = asyncio.run(_report(target))
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


def _target(config: str | None, state_url: str | None) -> Target:
    if config is not None and is_object(config):
        return target_from(config, state_url=state_url)
    # The file that `serve` would serve, by the same function.
    return Target(settings=settings_from(config, state_url=state_url, required=True))


async def _report(target: Target) -> dict[str, Any]:
    from raincheck.composition.adapters import require_server
    from raincheck.composition.operations import check_machine

    require_server()
    from raincheck.mcp.surfaces.handle_definitions import HANDLE_TOOLS

    settings, rc = target.settings, target.rc
    if rc is None:
        _, rc = _server(settings)
        server = settings.server.model_dump(include={"name", "version", "transport", "host", "port"})
    else:
        server = {"name": rc.settings_of_server().server_name} | dict.fromkeys(("version", "transport", "host", "port"))
    await rc.adopt_all()
    operations = rc.operations
    if target.rc is not None:
        for operation in operations.values():
            check_machine(operation)
    kept = await _stored_tasks(target)
    store, engine = target.place()
    in_a_file = settings.state.provider == "sqlite" and not target.store_is_given
    return {
        "ok": True,
        "source": settings.source,
        "file": settings.file,
        "server": server,
        "callers": None if target.rc is not None else _callers(settings),
        "state": {
            "provider": None if target.store_is_given else settings.state.provider,
            "place": store,
            "file": str(settings.database) if in_a_file else None,
            "tasks": kept,
        },
        "engine": {"name": settings.execution.engine, "place": engine},
        "operations": [
            {
                "operation_type": name,
                "kind": settings.operations[name].kind if name in settings.operations else None,
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


def _server(settings: Settings) -> tuple[Any, TaskHost]:
    """The server as `serve` builds it, which then listens and runs it."""
    from raincheck.mcp.auth.verifiers import make_verifier
    from raincheck.mcp.server.serve import make_server

    of = settings.server
    return make_server(
        settings, verifier=make_verifier(settings, os.environ), address=f"http://{of.host}:{of.port}/mcp"
    )


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


async def _stored_tasks(target: Target) -> int:
    """Begin as a server does, as far as its first task, and say how many there are."""
    from raincheck.composition.adapters import make_engine, service_settings
    from raincheck.config.program import claim_store
    from raincheck.encryption.cipher import check_keys

    settings = target.settings
    make_engine(settings)
    program = service_settings(settings).program
    store = target.new_store()
    blobs = target.new_blobs(store)
    await store.open()
    try:
        await check_keys(store)
        if program is not None and not target.store_is_given:
            await claim_store(store, program)
        if blobs is not None:
            await blobs.open()
            await blobs.close()
        return sum((await store.count()).values())
    finally:
        await store.close()


def _print(report: Mapping[str, Any]) -> None:
    server, state = report["server"], report["state"]
    transport = server["transport"]
    click.echo(f"{clean(report['file'])}: {clean(_in_words(server))}")
    if transport not in (None, "stdio"):
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


def _in_words(server: Mapping[str, Any]) -> str:
    name, transport = server["name"] or "a server without a name", server["transport"]
    if transport is None:
        return name
    where = "stdio" if transport == "stdio" else f"{transport} on {server['host']}:{server['port']}"
    return f"{name} {server['version']} over {where}"


def _callers_in_words(callers: Mapping[str, Any]) -> str:
    if not callers["authenticated"]:
        return "anybody, without a token"
    named = [f"with a token: {', '.join(callers['tokens'])}"] if callers["tokens"] else []
    return "; ".join(named + ([f"with a JWT of {callers['issuer']}"] if callers["issuer"] else []))


def _row(operation: Mapping[str, Any]) -> list[str]:
    description = " ".join(operation["description"].split())
    return [
        operation["operation_type"],
        operation["kind"] or "",
        operation["mode"],
        "none" if operation["timeout_seconds"] is None else span(operation["timeout_seconds"]),
        span(operation["default_max_wait_seconds"]),
        span(operation["ttl_seconds"]),
        operation["on_worker_lost"],
        description if len(description) <= 60 else f"{description[:59]}…",
    ]
