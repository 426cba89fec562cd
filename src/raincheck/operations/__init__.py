"""What can be run: the declaration and its policy, and one module a kind."""
