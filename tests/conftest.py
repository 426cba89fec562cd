"""What holds for all tests: no property is refuted by a machine that is busy."""

from __future__ import annotations

import importlib.util

# The tests inside FastMCP's environment do without it.
if importlib.util.find_spec("hypothesis") is not None:
    from hypothesis import HealthCheck, settings

    settings.register_profile("raincheck", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("raincheck")
