"""The surfaces on which clients meet tasks."""
