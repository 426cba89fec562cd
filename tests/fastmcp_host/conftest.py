from __future__ import annotations

from importlib.util import find_spec

# These run in an environment of their own: test_in_its_own_environment.py makes it and runs them there.
collect_ignore_glob = [] if find_spec("fastmcp") else ["inside/*"]
