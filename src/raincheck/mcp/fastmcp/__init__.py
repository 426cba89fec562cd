"""FastMCP as a host."""
