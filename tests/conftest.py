"""What holds for all tests: no property is refuted by a machine that is busy, and servers start quickly."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator

import pytest

from support.warm import WARM_STARTS, WarmStarts

# The tests inside FastMCP's environment do without it.
if importlib.util.find_spec("hypothesis") is not None:
    from hypothesis import HealthCheck, settings

    settings.register_profile("raincheck", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("raincheck")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cold", action="store_true", help="start every Python anew (tests/support/warm.py)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[WARM_STARTS] = starts = WarmStarts()
    if not config.getoption("--cold"):
        starts.install()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[WARM_STARTS].uninstall()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    starts = item.config.stash[WARM_STARTS]
    starts.allowed = item.get_closest_marker("cold") is None
    try:
        return (yield)
    finally:
        starts.allowed = False
