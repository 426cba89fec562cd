"""Payloads encrypted at rest."""
