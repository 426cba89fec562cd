# Claude Code starts the server itself, over stdio:
claude mcp add reports -- raincheck serve /path/to/raincheck.toml

# or connects to one that runs already (raincheck serve --transport streamable-http):
claude mcp add --transport http reports http://127.0.0.1:8000/mcp
