"""Clocks and timing."""
