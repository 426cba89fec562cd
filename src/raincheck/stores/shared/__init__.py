"""Modules that the stores share."""
