"""The base of engines on an existing queue."""
