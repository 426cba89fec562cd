"""The use cases: accepting, watching and ending tasks."""
