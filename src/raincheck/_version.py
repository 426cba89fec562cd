"""The version of raincheck."""

__version__ = "0.1.0"
