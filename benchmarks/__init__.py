"""The benchmarks: the official SDK alone (the floor), the rival and raincheck, measured in one run.

`python -m benchmarks --help` says what can be chosen; docs/benchmarks.md says how to read the result.
"""
