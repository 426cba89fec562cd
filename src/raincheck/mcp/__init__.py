"""The MCP surfaces: the only folder that imports the official SDK."""
