"""The servers and operations that are measured; each file is run as a script."""
