"""Functions by name: `target = "module:function"` of a configuration file."""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raincheck.errors import ConfigurationError
from raincheck.operations.validation_messages import capped


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
        raise _failed(target, name, f"failed: it imports {error.name!r}, which is not installed", folder) from error
    except SystemExit as error:
        raise _failed(target, name, "called sys.exit", folder) from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        told = str(error.msg) if isinstance(error, SyntaxError) else str(error)
        raise _failed(target, name, f"failed: {type(error).__name__}: {capped(told)}", folder) from error


def _failed(target: str, name: str, problem: str, folder: Path | None) -> ConfigurationError:
    place = _place(sys.exception(), folder)
    return ConfigurationError(f'target = "{target}": importing {name} {problem}{place}')


def _place(error: BaseException | None, folder: Path | None) -> str:
    """` (file:line)`, where the error came from: the innermost line of the user's files, else of any."""
    if isinstance(error, SyntaxError) and error.filename:
        lines = [(error.filename, error.lineno)]
    else:
        frames = traceback.extract_tb(None if error is None else error.__traceback__)
        lines = [(each.filename, each.lineno) for each in frames if not _is_import(each.filename)]
    if not lines:
        return ""
    home = None if folder is None else folder.resolve()
    theirs = [each for each in lines if home is not None and _within(Path(each[0]), home)]
    file, line = (theirs or lines)[-1]
    shown = Path(file).relative_to(home) if theirs and home is not None else file
    return f" ({shown}:{line})"


def _is_import(file: str) -> bool:
    return file.startswith("<frozen importlib") or file == importlib.__file__ or file == __file__


def _within(file: Path, folder: Path) -> bool:
    return file.is_relative_to(folder) and "site-packages" not in file.parts
