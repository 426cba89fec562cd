"""What a task is: pure values and rules."""
