"""The tables of docs/configuration.md, made from the settings themselves.

`python tests/config/reference.py` writes them into the page, between its markers; a test holds the two together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from pydantic.fields import FieldInfo

from raincheck.config.messages import allowed_values
from raincheck.config.sections.operations import OPERATION_MODELS
from raincheck.config.settings import NESTED_MODELS, OPERATION_TABLES, SECTION_MODELS

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
MARKED = re.compile(r"(<!-- keys: ([a-z.]+) -->\n).*?(<!-- end -->)", re.DOTALL)

_COMMON = {
    key
    for key in OPERATION_MODELS["python"].model_fields
    if all(key in model.model_fields for model in OPERATION_MODELS.values())
}
_DEFAULTS_IN_WORDS = {("server", "version"): "raincheck's own"}


def tables() -> dict[str, str]:
    """Each table of the page, by the name in its marker."""
    kinds = ", ".join(f'"{kind}"' for kind in OPERATION_MODELS)
    kind = f"| `kind` | {kinds} | (required) | What it is: see below. | `…__KIND` |"
    fields = next(iter(OPERATION_MODELS.values())).model_fields
    shared = _COMMON - {"kind", *OPERATION_TABLES}
    common = [_row("operations", key, field) for key, field in fields.items() if key in shared]
    pages = {
        name: [_row(name, key, field) for key, field in model.model_fields.items() if (name, key) not in NESTED_MODELS]
        for name, model in SECTION_MODELS.items()
    }
    for (outer, inner), model in NESTED_MODELS.items():
        name = f"{outer}.{inner}"
        pages[name] = [_row(name, key, field) for key, field in model.model_fields.items()]
    pages["operations"] = [kind, *common]
    for name, model in OPERATION_TABLES.items():
        pages[f"operations.{name}"] = [
            _row(f"operations.{name}", key, field) for key, field in model.model_fields.items()
        ]
    for name, model in OPERATION_MODELS.items():
        own = {
            key: field
            for key, field in model.model_fields.items()
            if key not in _COMMON and key not in OPERATION_TABLES
        }
        pages[name] = [_row("operations", key, field) for key, field in own.items()]
    return {name: _table(rows) for name, rows in pages.items()}


def rendered(page: str) -> str:
    """The page with its tables as they should be."""
    made = tables()
    return MARKED.sub(lambda found: f"{found[1]}{made[found[2]]}{found[3]}", page)


def _table(rows: Iterable[str]) -> str:
    head = "| key | allowed | default | meaning | environment |\n| --- | --- | --- | --- | --- |\n"
    return head + "".join(f"{row}\n" for row in rows)


def _row(section: str, key: str, field: FieldInfo) -> str:
    name = section.upper().replace(".", "__")
    table = name.replace("OPERATIONS", "…") if section.startswith("operations") else f"RAINCHECK_{name}"
    variable = f"{table}__{key.upper()}"
    cells = (f"`{key}`", allowed_values(field), _default(section, key, field), field.description or "", f"`{variable}`")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(section: str, key: str, field: FieldInfo) -> str:
    if field.is_required():
        return "(required)"
    default = field.get_default(call_default_factory=True, validated_data={})
    in_words = _DEFAULTS_IN_WORDS.get((section, key))
    return in_words or ("unset" if default is None or default == {} else f"`{json.dumps(default)}`")


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
