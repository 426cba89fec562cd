"""The layers of the source (docs/architecture.md), read from it file by file: imports go downwards only."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "_version"),
    ("extras",),
    ("domain", "timing", "egress"),
    ("ports", "operations"),
    ("limits", "polling", "stores", "engines"),
    ("tasks", "encryption", "blob_stores"),
    ("webhooks", "callbacks", "config"),
    ("runtime",),
    ("composition",),
    ("mcp",),
    ("demo",),
    ("cli",),
    ("fastmcp", "testing", "__init__", "__main__"),
)
"""The folders and modules at the top of the package, the lowest first. A file imports its own folder and lower
layers."""

WITHIN_A_LAYER = {("operations", "ports")}
"""Of two rooms in one layer, the first imports the second."""

FACADE = "__init__"
CLIENT_IMPORTS = {"client", "errors", "domain", "_version", "extras"}
CORE = {room for layer in LAYERS[:8] for room in layer} - {
    "egress",
    "operations",
    "stores",
    "engines",
    "blob_stores",
    "config",
}

SDK = {"mcp", "mcp_types"}
HOMES_OF_THE_SDK = {"mcp"}
# The client works beside mcp 1.x and without any SDK; these are loaded on use only.
CLIENT_OF_THE_SDK = {f"client/{name}.py" for name in ("transports", "http", "tasks_extension", "tasks_wire")}
FORBIDDEN_IN_THE_CORE = {"click", "httpx", "httpx2", "pydantic", "rich", "sqlite3", "starlette", "uvicorn"}


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported when the code runs, at whatever depth; imports for type checkers do not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports(other)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            # `from raincheck.mcp.wire import tasks` imports a module of that folder.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node)


def _modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted((SOURCE / "raincheck").rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = _modules()
IMPORTED = {name: set(imports(ast.parse(path.read_text(encoding="utf-8")))) for name, path in MODULES.items()}


def _module_of(name: str) -> str:
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def room_of(module: str) -> str:
    """The folder or module at the top of the package."""
    return module.split(".")[1] if "." in module else FACADE


GRAPH = {
    name: {_module_of(each) for each in found if each.split(".")[0] == "raincheck"} - {name}
    for name, found in IMPORTED.items()
}
LEVEL = {room: level for level, layer in enumerate(LAYERS) for room in layer}


def libraries(module: str) -> set[str]:
    return {name.split(".")[0] for name in IMPORTED[module]} - {"raincheck"}


def _allowed(upper: str, lower: str) -> bool:
    if upper == lower or (upper, lower) in WITHIN_A_LAYER:
        return True
    if "client" in (upper, lower):
        return upper in {"testing", "demo"} or (upper == "client" and lower in CLIENT_IMPORTS)
    return LEVEL[lower] < LEVEL[upper]


@pytest.mark.parametrize("module", MODULES)
def test_a_file_imports_only_what_is_below_it(module: str) -> None:
    if module.startswith("raincheck.demo.project"):
        # Written as a user would write it: it knows the package's face and nothing else.
        assert GRAPH[module] <= {"raincheck"}
        return
    upwards = {other for other in GRAPH[module] if not _allowed(room_of(module), room_of(other))}
    assert not upwards


def test_every_room_has_its_layer() -> None:
    assert {room_of(module) for module in MODULES} == {*LEVEL, "client"}


def test_imports_form_no_circle_not_even_within_a_folder() -> None:
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " imports ".join((*above, module))
        if module not in done:
            for below in sorted(GRAPH[module]):
                visit(below, (*above, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())
    assert done == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_only_the_mcp_folder_imports_the_sdk(module: str) -> None:
    known = MODULES[module].relative_to(SOURCE / "raincheck").as_posix() in CLIENT_OF_THE_SDK
    assert known or room_of(module) in HOMES_OF_THE_SDK or not libraries(module) & SDK


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module) in CORE])
def test_the_core_knows_no_vendor(module: str) -> None:
    assert not libraries(module) & FORBIDDEN_IN_THE_CORE
    if room_of(module) in {"domain", "timing", "ports", "errors"}:
        assert libraries(module) <= set(sys.stdlib_module_names)


def test_one_store_or_engine_does_not_know_another() -> None:
    """Adapters stand beside one another; what they have in common is in `shared` and `queue`."""
    for room, common in (("stores", "shared"), ("engines", "queue")):
        for module, others in GRAPH.items():
            parts = module.split(".")
            if len(parts) > 3 and parts[1] == room:
                known = {other.split(".")[2] for other in others if other.startswith(f"raincheck.{room}.")}
                assert known <= {parts[2], common, "pending_scanner", "slots"}, module


def test_one_surface_does_not_know_another() -> None:
    """What they have in common (hints, holds, questions, answers) is handed to each."""
    names = ("handle_tools", "typed_tools", "task_methods", "task_notifications", "result_resources")
    surfaces = {f"raincheck.mcp.surfaces.{name}" for name in names}
    for surface in surfaces:
        assert not surfaces & (set(GRAPH[surface]) - {surface}), surface


@pytest.mark.parametrize("module", MODULES)
def test_no_constructor_takes_more_than_eight_parameters(module: str) -> None:
    """What comes in more parts than that is a value of its own, or a second subject."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            given = node.args
            assert len([*given.posonlyargs, *given.args, *given.kwonlyargs]) - 1 <= 8, node.lineno
