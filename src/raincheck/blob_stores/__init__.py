"""Blob stores: one module each."""
