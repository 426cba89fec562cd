"""Who calls: verifiers of tokens, and scopes."""
