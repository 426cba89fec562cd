"""Limits that protect upstreams: circuit breakers, and permits for starts, for all processes on a store."""
