"""How long callers wait and when they ask again: the patience of clients, and waits within a call."""
