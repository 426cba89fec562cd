"""Inbound: completion tokens, and the endpoint that takes them."""
