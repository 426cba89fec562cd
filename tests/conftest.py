"""What holds for all tests: no property is refuted by a machine that is busy, and servers start quickly."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from tiers import group_of, is_full, is_full_file

from support.servers.server import Server
from support.warm import WARM_STARTS, WarmStarts

# The tests inside FastMCP's environment do without it.
if importlib.util.find_spec("hypothesis") is not None:
    from hypothesis import HealthCheck, settings

    settings.register_profile("raincheck", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("raincheck")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cold", action="store_true", help="start every Python anew (tests/support/warm.py)")
    parser.addoption("--quick", action="store_true", help="leave out what waits for `make test-all` (tests/tiers.py)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[WARM_STARTS] = starts = WarmStarts()
    runs_tests = not config.getoption("numprocesses", None) and not config.getoption("collectonly")
    if runs_tests and not config.getoption("--cold"):
        starts.install()
    Server.allowed = not config.getoption("--quick")


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[WARM_STARTS].uninstall()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("--quick") and is_full_file(collection_path) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    full: list[pytest.Item] = []
    quick: list[pytest.Item] = []
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
        (full if is_full(item) else quick).append(item)
    if config.getoption("--quick"):
        items[:] = quick
        config.hook.pytest_deselected(items=full)
    else:
        # The long ones first: the short ones fill the workers to the end.
        items[:] = [*full, *quick]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    starts = item.config.stash[WARM_STARTS]
    starts.allowed = item.get_closest_marker("cold") is None
    try:
        return (yield)
    finally:
        starts.allowed = False


@pytest.fixture(autouse=True)
def search_path() -> Generator[None]:
    """What a test put on the module search path (a working folder with an `operations.py`) is gone with it."""
    before = list(sys.path)
    yield
    sys.path[:] = before
