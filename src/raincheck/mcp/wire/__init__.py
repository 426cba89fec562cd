"""What stands in messages: results, tasks, errors."""
