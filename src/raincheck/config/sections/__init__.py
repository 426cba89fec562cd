"""The settings, one module a section of raincheck.toml."""
