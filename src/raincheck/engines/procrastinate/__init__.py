"""The engine on procrastinate (PostgreSQL)."""
