"""The settings: raincheck.toml, environment and flags, read and checked."""
