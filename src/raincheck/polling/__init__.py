"""Polling: the hints to callers, the patience of clients, and waits within a call."""
