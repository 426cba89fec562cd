"""Webhooks: ends of tasks are sent at least once, whatever process dies meanwhile."""
