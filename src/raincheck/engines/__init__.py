"""What brings a task to a worker: one module an engine."""
