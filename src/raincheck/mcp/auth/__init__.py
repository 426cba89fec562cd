"""Authentication: token verifiers, and scopes."""
