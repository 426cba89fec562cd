"""For agents and scripts: pollers and drivers. Loads no store, and works beside mcp 1.x too."""
