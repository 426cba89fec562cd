"""`raincheck serve`."""

from __future__ import annotations

import click

from raincheck.cli.options import TARGET, is_object, settings_from, state_url_option
from raincheck.errors import ConfigurationError
from raincheck.runtime.startup import without_collections


@click.command()
@click.argument("config", required=False, type=TARGET)
@click.option(
    "--transport",
    type=click.Choice(["stdio", "streamable-http", "sse"]),
    help="How clients speak to it; default: stdio. HTTP answers at /mcp.",
)
@click.option("--host", help="The address to listen on, for HTTP; default: 127.0.0.1.")
@click.option("--port", type=int, help="The port to listen on, for HTTP; default: 8000; 0: any free one.")
@click.option(
    "--allow-anonymous",
    is_flag=True,
    default=None,
    help="Listen on more than loopback without [server.auth]: whoever gets there may call.",
)
@state_url_option
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"]),
    help="The least severe lines that are logged, to stderr; default: info.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="Lines for people, or one JSON object on each line; default: text.",
)
def serve(
    config: str | None,
    transport: str | None,
    host: str | None,
    port: int | None,
    allow_anonymous: bool | None,
    state_url: str | None,
    log_level: str | None,
    log_format: str | None,
) -> int:
    """Serve the operations of CONFIG to MCP clients.

    CONFIG is a file as in docs/configuration.md; by default raincheck.toml in this folder. A client that starts
    its servers itself runs this command; on stdio nothing but MCP goes to stdout.

    On stdio, with the store sqlite, tasks run in a local worker: a process that this one starts, and that goes on when
    the client ends the server (outlive_client in [execution]; raincheck worker status).

    \b
    Examples:
      raincheck serve
      raincheck serve reports.toml --transport streamable-http --port 8080
    """
    if config is not None and is_object(config):
        file = config.partition(":")[0].replace(".", "/")
        raise ConfigurationError(
            f"{config} is no configuration: a server in Python is started itself (python {file}.py), and its tasks are "
            f"run elsewhere by raincheck worker {config}"
        )
    settings = settings_from(
        config,
        required=True,
        state_url=state_url,
        server__transport=transport,
        server__host=host,
        server__port=port,
        server__allow_anonymous=allow_anonymous,
        observability__log_level=log_level,
        observability__log_format=log_format,
    )
    from raincheck.composition.adapters import require_server

    require_server()
    with without_collections():
        from raincheck.mcp.server import serve

    return serve.serve(settings)
