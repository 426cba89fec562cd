"""The engine on docket (Redis)."""
