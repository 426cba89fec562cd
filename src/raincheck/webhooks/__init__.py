"""Webhooks: whoever asked to be called back is told of a task's end, at least once, whatever process dies meanwhile."""
