"""Where settings come from: `raincheck.toml`, overridden by `RAINCHECK_SECTION__KEY`, overridden by flags."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from pydantic import ValidationError

from raincheck.config.messages import Origins, describe, shorten, suggestion, value_kind, wrong_value
from raincheck.config.sections.operations import OPERATION_MODELS
from raincheck.config.settings import (
    NESTED_MODELS,
    OPERATION_TABLES,
    SECTION_MODELS,
    Section,
    Settings,
    table_name,
    user_state_folder,
)
from raincheck.errors import ConfigurationError

DEFAULT_FILE = "raincheck.toml"
"""What is read from the working folder where no file is named."""

_PREFIX = "RAINCHECK_"
_MAX_FILE_BYTES = 1024 * 1024
_NOT_FROM_FILE = ("folder", "source", "program_file", "server_name", "state_folder")

Tables = dict[str, dict[str, Any]]


def load_settings(
    path: Path | None, *, environ: Mapping[str, str], overrides: Mapping[str, Any] = MappingProxyType({})
) -> Settings:
    """Read and validate all settings.

    Args:
        path: The configuration file; None for `raincheck.toml` in the working folder, or the defaults without one.
        environ: The environment; only names that start with `RAINCHECK_` and contain `__` count.
        overrides: What flags say, as `"section.key"` -> typed value; None means that the flag was not given.

    Raises:
        ConfigurationError: The first mistake, in one line.
    """
    if path is None and Path(DEFAULT_FILE).is_file():
        path = Path(DEFAULT_FILE)
    source = shorten(str(path))[1:-1] if path else "the defaults"
    data = _read(path, source) if path else {}
    for name in _NOT_FROM_FILE:
        if name in data:
            raise ConfigurationError(f"unknown key {name!r} outside of any table in {source}")
    origins: dict[tuple[str, ...], str] = {}
    _apply_environment(data, environ, origins)
    _apply_flags(data, overrides, origins)
    place = {
        "folder": path.absolute().parent if path else Path.cwd(),
        "source": source,
        "program_file": path.resolve() if path else None,
        "state_folder": user_state_folder(environ),
    }
    return settings_of({**data, **place}, source, origins)


def nothing_here(folder: Path) -> str | None:
    """What to say where there is no `raincheck.toml` in the folder, with the near miss; None where there is one."""
    if (folder / DEFAULT_FILE).is_file():
        return None
    try:
        names = [file.name for file in folder.iterdir() if file.is_file()]
    except OSError:
        names = []
    above = next((str(each) for each in folder.parents if (each / DEFAULT_FILE).is_file()), None)
    by_case = {name.lower(): name for name in names}
    close = [by_case[name] for name in difflib.get_close_matches(DEFAULT_FILE, by_case, n=3, cutoff=0.7)]
    tables = [name for name in sorted(names) if name.endswith(".toml") and _declares(folder / name)]
    hint = ""
    if close or tables:
        hint = f"; there is {' and '.join(list(dict.fromkeys([*close, *tables]))[:5])} here"
    elif above is not None:
        hint = f"; there is one in {above}"
    return f"there is no {DEFAULT_FILE} in {folder}: name the file, or make one (raincheck init){hint}"


def _declares(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return b"[operations." in opened.read(_MAX_FILE_BYTES)
    except OSError:
        return False


def settings_of(data: Mapping[str, Any], source: str, origins: Origins = MappingProxyType({})) -> Settings:
    """Settings of values that are there already.

    Args:
        data: Tables as the file has them.
        source: Where they come from, for messages.
        origins: Which of them come from elsewhere.

    Raises:
        ConfigurationError: The first mistake, in one line.
    """
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(describe(error, source=source, origins=origins)) from None


def _read(path: Path, source: str) -> dict[str, Any]:
    if path.is_dir():
        raise ConfigurationError(f"{source} is a folder; name the configuration file in it")
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigurationError(f"there is no configuration file {source}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"cannot read the configuration file {source}: {reason}") from None
    if len(raw) > _MAX_FILE_BYTES:
        raise ConfigurationError(f"{source} is larger than {_MAX_FILE_BYTES} bytes: is it a configuration file?")
    try:
        # Editors on Windows begin a file with a byte order mark, which TOML does not know.
        text = raw.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{source} is not UTF-8: line {line} holds byte 0x{raw[error.start]:02x}") from None
    try:
        return tomllib.loads(f"{text}\n")
    except RecursionError:
        raise ConfigurationError(f"{source} is no valid TOML: its tables or lists are nested too deeply") from None
    except ValueError as error:
        end = f"at line {text.count(chr(10)) + 1}, column {len(text) - text.rfind(chr(10))}, the end"
        reason = " ".join(str(error).replace("at end of document", end).split())[:200]
        raise ConfigurationError(f"{source} is no valid TOML: {reason}") from None


def _apply_environment(data: dict[str, Any], environ: Mapping[str, str], origins: dict[tuple[str, ...], str]) -> None:
    for name in sorted(environ):
        if not name.startswith(_PREFIX) or "__" not in name:
            continue
        section, _, rest = name.removeprefix(_PREFIX).partition("__")
        inner, _, key = rest.rpartition("__")
        operation, own, table = _operation_in(inner) if section.lower() == "operations" else ("", "", None)
        nested = table or NESTED_MODELS.get((section.lower(), inner.lower()))
        if operation:
            path = (section.lower(), _operation_named(operation, data, name), *([own] if own else []))
        elif nested is not None:
            path = section.lower(), inner.lower()
        else:
            path, key = (section.lower(),), rest
        holder = _table_in(data, path) if operation or path[0] in SECTION_MODELS else {}
        if holder is None:
            continue
        if operation and nested is None:
            model = OPERATION_MODELS.get(str(holder.get("kind")))
        else:
            model = nested or SECTION_MODELS.get(path[0])
        if model is None and operation:  # Its kind is wrong or missing: validation will say so.
            continue
        if model is None:
            raise _unknown_variable(name, section, [*SECTION_MODELS, "operations"])
        key = key.lower()
        if key not in model.model_fields:
            raise _unknown_variable(name, key, list(model.model_fields))
        origin = f"the environment ({name})"
        holder[key] = _from_text(model, key, environ[name], table_name(*path), origin)
        origins[(*path, key)] = origin


def _apply_flags(data: dict[str, Any], overrides: Mapping[str, Any], origins: dict[tuple[str, ...], str]) -> None:
    for name, value in overrides.items():
        if value is None:
            continue
        section, _, key = name.partition(".")
        holder = _table_in(data, (section,))
        if holder is not None:
            holder[key] = value
            flag = "--state-url" if name == "state.url" else f"--{key.replace('_', '-')}"
            origins[section, key] = f"the command line ({flag})"


def _table_in(data: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """The table to write into, made where it is missing; None where something else stands there (validation tells)."""
    holder: Any = data
    for part in path:
        holder = cast("dict[str, Any]", holder).setdefault(part, {})
        if not isinstance(holder, dict):
            return None
    return cast("dict[str, Any]", holder)


def _operation_in(words: str) -> tuple[str, str, type[Section] | None]:
    """The operation's name in `NAME` or `NAME__TABLE`, and the table within its own, if it is one."""
    name, _, last = words.rpartition("__")
    table = OPERATION_TABLES.get(last.lower()) if name else None
    return (words, "", None) if table is None else (name, last.lower(), table)


def _operation_named(wanted: str, data: Mapping[str, Any], variable: str) -> str:
    tables = data.get("operations")
    names = list(cast("dict[str, Any]", tables)) if isinstance(tables, dict) else []
    plain = wanted.lower().replace("-", "_").replace(".", "_")
    found = [name for name in names if name.lower() == wanted.lower()]
    found = found or [name for name in names if name.lower().replace("-", "_").replace(".", "_") == plain]
    if len(found) != 1:
        why = f"fits several operations: {', '.join(found)}" if found else "fits no operation in the configuration"
        known = f". Operations: {', '.join(sorted(names)) or 'none'}" if not found else ""
        raise ConfigurationError(f"the environment variable {shorten(variable)[1:-1]} {why}{known}")
    return found[0]


def _from_text(model: type[Section], key: str, text: str, table: str, origin: str) -> Any:
    field = model.model_fields[key]
    kind = value_kind(field)
    if kind == "number or text":
        try:
            return float(text)
        except ValueError:
            return text
    if kind == "boolean or text":
        return {"true": True, "false": False}.get(text, text)
    try:
        if kind == "integer":
            return int(text)
        if kind == "number":
            return float(text)
        return text if kind == "text" or key == "body" else json.loads(text)
    except ValueError:
        form = " (as JSON)" if kind == "json" else ""
        line = wrong_value(key, text, table=table, source=origin, field=field)
        raise ConfigurationError(f"{line}{form}") from None


def _unknown_variable(name: str, wrong: str, known: list[str]) -> ConfigurationError:
    names = [word.upper() for word in sorted(known)]
    return ConfigurationError(
        f"unknown environment variable {shorten(name)[1:-1]}: there is no {shorten(wrong.upper())[1:-1]}"
        f"{suggestion(wrong.upper(), names)} Allowed: {', '.join(names)}"
    )
