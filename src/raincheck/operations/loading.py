"""Functions by name: `target = "module:function"` of a configuration file."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raincheck.errors import ConfigurationError
from raincheck.operations.problems import capped

__all__ = ["load_object", "load_target"]


def load_target(target: str, folder: Path | None = None) -> Callable[..., Any]:
    """The function that `module:function` (or `module:object.method`) names.

    Args:
        target: Its name.
        folder: Put first on `sys.path`, so that modules beside a configuration file are found.

    Raises:
        ConfigurationError: There is no such function, or its module cannot be imported; one line says which and why.
    """
    found = load_object(target, folder)
    if not callable(found):
        raise ConfigurationError(f'target = "{target}" is of type {type(found).__name__}; allowed: a function')
    return found


def load_object(target: str, folder: Path | None = None) -> Any:
    """Whatever `module:name` names; see `load_target`.

    Raises:
        ConfigurationError: As there.
    """
    module_name, colon, path = target.partition(":")
    named = colon and all(module_name.split(".")) and all(part.isidentifier() for part in path.split("."))
    if not named:
        raise ConfigurationError(f'target = "{capped(target)}" is no function\'s name; allowed: "module:function"')
    if folder is not None and str(folder.resolve()) not in sys.path[:1]:
        sys.path.insert(0, str(folder.resolve()))
    found: Any = _module(target, module_name, folder)
    for name in path.split("."):
        if not hasattr(found, name):
            close = difflib.get_close_matches(name, [n for n in dir(found) if not n.startswith("__")], n=3, cutoff=0.5)
            hint = f"; there is: {', '.join(close)}" if close else ""
            raise ConfigurationError(f'target = "{target}": {module_name} has no {name!r}{hint}')
        found = getattr(found, name)
    return found


def _module(target: str, name: str, folder: Path | None) -> Any:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            where = f" in {folder} or on the Python path" if folder is not None else " on the Python path"
            raise ConfigurationError(f'target = "{target}": there is no module {error.name!r}{where}') from error
        raise ConfigurationError(
            f'target = "{target}": importing {name} failed: it imports {error.name!r}, which is not installed'
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f'target = "{target}": importing {name} failed: {type(error).__name__}: {capped(str(error))}'
        ) from error
    except SystemExit as error:
        raise ConfigurationError(f'target = "{target}": importing {name} called sys.exit') from error
