"""The direction of imports (design.md §6), read from the source: rooms import downwards only."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

_DOMAIN = {
    "elapsed",
    "caller",
    "errors",
    "exits",
    "extras",
    "local_paths",
    "lease",
    "previews",
    "result_forms",
    "secrecy",
    "task",
    "traces",
    "transitions",
    "unicode_text",
    "logs",
    "_version",
}
_PORTS = {"blobs", "notes", "store", "engine"}
_HISTORY = {"history", "history_sketch", "history_keeper", "hints", "hints_schedule"}
_CORE = {
    *("attempt", "registry", "runner", "run", "heartbeat", "sweeper", "changes", "failure_rate", "service", "clock"),
    *("callbacks", "leftovers", "limits", "lost_answers", "lost_workers", "results", "result_pages", "sealing"),
    "task_log",
    *_HISTORY,
}

FACADE = "__init__"

ALLOWED: dict[str, set[str]] = {
    "_version": set(),
    "elapsed": set(),
    "lease": {"elapsed"},
    "errors": set(),
    "exits": {"errors", "secrecy"},
    "unicode_text": set(),
    "extras": {"errors"},
    "startup": set(),
    "local_paths": set(),
    "logs": {"secrecy", "traces", "unicode_text"},
    "caller": set(),
    "task": {"caller", "errors"},
    "traces": {"task"},
    "transitions": {"errors", "task", "unicode_text"},
    "previews": {"unicode_text"},
    "result_forms": {"previews", "task", "unicode_text"},
    "blobs": set(),
    "notes": set(),
    "store": {"errors", "notes", "task", "transitions"},
    "engine": {"errors", "task", "transitions", "store"},
    "sealing": {"errors", "notes"},
    "secrecy": {"task"},
    "status": {"result_forms", "task"},
    "outgoing": {"_version", "errors", "extras"},
    "operations": _DOMAIN | {"outgoing"},
    "tls": set(),
    "stores": _DOMAIN | {"notes", "sealing", "store", "tls"},
    # Blobs live beside tasks: on the same servers, reached in the same way.
    "blob_stores": _DOMAIN | {"blobs", "notes", "sealing", "stores", "tls"},
    "engines": _DOMAIN | _PORTS | {"tls"},
    "client": _DOMAIN,
    "config_section": set(),
    "config_auth": {"config_section", "errors"},
    "config_server": {"config_auth", "config_section", "_version"},
    "config_execution": {"config_inherit", "config_section"},
    "config_inherit": {"operations"},
    "config_results": {"config_section"},
    "config_state": {"config_section"},
    "config_encryption": {"config_section", "errors", "sealing"},
    "config_webhooks": {"config_section", "operations", "outgoing"},
    "config_upstream": {"config_section"},
    "config_callers": {"config_section", "errors", "operations"},
    "config_operations": {
        "config_callers",
        *("config_inherit", "config_limits", "config_results", "config_section", "config_upstream", "config_webhooks"),
        "operations",
    },
    "config_admission": {"config_section"},
    "config_limits": {"config_admission", "config_section", "operations"},
    "config": {
        *("config_inherit", "config_operations", "config_upstream"),
        *("config_auth", "config_encryption", "config_execution", "config_limits", "config_section"),
        *("config_server", "config_state", "program"),
        *("config_webhooks", "errors", "operations", "_version"),
        *("config_auth", "config_execution", "config_limits", "config_results", "config_section", "config_server"),
        *("config_state", "config_webhooks", "errors", "operations", "_version"),
    },
    "config_messages": {"config"},
    "config_sources": {"config", "config_messages", "errors"},
    # The composition root names the adapters.
    "compose": _DOMAIN
    | {"config", "config_state", "operations", "sealing", "service", "store", "stores", "engines", "tls"}
    | {"blob_stores", "blobs", "webhooks"},
    "compose_operations": {"compose", "config", "errors", "operations"},
    "webhooks": _DOMAIN | _PORTS | {"operations", "outgoing", "status", "stores"},
    **{name: _DOMAIN | _PORTS | _CORE | {"operations", "webhooks"} for name in _CORE - {"sealing"}},
    # One process's share is put together here; the embedded engine is its default.
    "failure_rate": set(),
    "task_log": {"logs", "task"},
    "history_sketch": set(),
    "history": {"errors", "history_sketch", "task"},
    "history_keeper": {"errors", "history", "notes", "task"},
    "hints_schedule": {"history"},
    "hints": {"hints_schedule", "history", "task"},
    "polling": {"errors", "history", "notes", "operations", "task"},
    "process_identity": set(),
    "program": {"errors", "notes"},
    "lost_workers": {"elapsed", "errors", "process_identity", "store", "task"},
    # And what tells it of ends, a wrapper of whatever store there is.
    "service": _DOMAIN
    | _PORTS
    | _CORE
    | {"operations", "engines", "polling", "process_identity", "program", "stores", "webhooks"},
    "listening": set(),
    "health": {"listening", "service"},
    "lifecycle": set(),
    "worker": {"errors", "health", "lifecycle", "listening", "service"},
    "mcp": _DOMAIN
    | _PORTS
    | _CORE
    | {
        "operations",
        "config",
        "config_auth",
        "config_sources",
        "compose",
        "compose_operations",
        "health",
        "lifecycle",
        "listening",
        "polling",
        "program",
        "status",
    },
    "cli": _DOMAIN
    | _PORTS
    | _CORE
    | {
        "operations",
        "config",
        "config_auth",
        "config_sources",
        "compose",
        "compose_operations",
        "mcp",
        "demo",
        "blobs",
        "program",
        "stores",
        "startup",
        "webhooks",
        "status",
        "worker",
    },
    # The demo's operations are written as a user would write them.
    "demo": _DOMAIN | {"mcp", FACADE},
    FACADE: {"_version", "compose"},
    # For users' own tests: a server and a client of it in one process, on the store in memory.
    "testing": {"client", "compose", "config_sources", "errors", "extras", "mcp", "stores"},
    # The second front door: `from raincheck.fastmcp import Raincheck`.
    "fastmcp": {"compose", "extras", "mcp"},
    "__main__": {"cli"},
}
"""What each room of the package may import, beside itself. Imports for type checkers only do not count."""

SDK = {"mcp", "mcp_types"}
HOMES_OF_THE_SDK = {"mcp", "demo"}
# The client works beside mcp 1.x and without any SDK; these are loaded on use only.
CLIENT_OF_THE_SDK = {f"raincheck/client/{name}.py" for name in ("connecting", "http", "tasks_extension", "tasks_wire")}
FORBIDDEN_IN_THE_CORE = {"click", "httpx", "httpx2", "pydantic", "rich", "sqlite3", "starlette", "uvicorn"}


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported when the code runs, at whatever depth."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports(other)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            # `from raincheck.mcp import wire` imports a module of that room.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node)


def rooms() -> Iterator[tuple[str, Path]]:
    package = SOURCE / "raincheck"
    for path in sorted(package.rglob("*.py")):
        yield path.relative_to(package).with_suffix("").parts[0], path


def imported_rooms(path: Path) -> set[str]:
    found = set(imports(ast.parse(path.read_text(encoding="utf-8"))))
    ours = {name.partition(".")[2].split(".")[0] for name in found if name.split(".")[0] == "raincheck"}
    return {name if name in ALLOWED else FACADE for name in ours}


def libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(ast.parse(path.read_text(encoding="utf-8")))} - {"raincheck"}


MODULES = [pytest.param(room, path, id=str(path.relative_to(SOURCE))) for room, path in rooms()]


@pytest.mark.parametrize(("room", "path"), MODULES)
def test_a_room_imports_only_what_is_below_it(room: str, path: Path) -> None:
    assert room in ALLOWED, f"{room} is a new room: say here what it may import"
    upwards = imported_rooms(path) - ALLOWED[room] - {room}
    assert not upwards


@pytest.mark.parametrize(("room", "path"), MODULES)
def test_only_the_mcp_room_imports_the_sdk(room: str, path: Path) -> None:
    known = room in HOMES_OF_THE_SDK or path.relative_to(SOURCE).as_posix() in CLIENT_OF_THE_SDK
    assert known or not libraries(path) & SDK


@pytest.mark.parametrize(("room", "path"), [each for each in MODULES if each.values[0] in _DOMAIN | _PORTS | _CORE])
def test_the_core_knows_no_vendor(room: str, path: Path) -> None:
    assert not libraries(path) & FORBIDDEN_IN_THE_CORE
    if room in _DOMAIN | _PORTS:
        assert libraries(path) <= set(sys.stdlib_module_names)


def test_the_arrows_form_no_circle() -> None:
    seen: list[str] = []

    def visit(room: str, above: tuple[str, ...]) -> None:
        assert room not in above, " imports ".join((*above, room))
        if room not in seen:
            for below in sorted(ALLOWED[room] - {room} - (_CORE if room in _CORE else set())):
                visit(below, (*above, room))
            seen.append(room)

    for room in ALLOWED:
        visit(room, ())
    assert set(seen) == set(ALLOWED)


def test_stores_and_engines_never_know_each_other_and_the_client_loads_no_store() -> None:
    assert "engines" not in ALLOWED["stores"]
    assert "stores" not in ALLOWED["engines"]
    assert not {"store", "stores", "engine", "engines", "mcp"} & ALLOWED["client"]


def test_no_room_is_listed_that_is_not_there() -> None:
    assert {room for room, _ in rooms()} == set(ALLOWED)
