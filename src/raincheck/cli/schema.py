"""`raincheck schema`: the JSON Schema of `raincheck.toml`, made from the settings' own models, for editors."""

from __future__ import annotations

from typing import Any

import click

from raincheck.cli.output import document

SCHEMA_FILE = "raincheck.schema.json"
"""What the first line of a configuration file names: `#:schema raincheck.schema.json`."""

# Editors of TOML (taplo, Even Better TOML) know this one.
_DIALECT = "http://json-schema.org/draft-07/schema#"


@click.command()
def schema() -> int:
    """Print the JSON Schema of raincheck.toml, by which editors complete and check it.

    In the first line of raincheck.toml, `#:schema raincheck.schema.json` names it to them.

    \b
    Example:
      raincheck schema > raincheck.schema.json
    """
    document(settings_schema())
    return 0


def settings_schema() -> dict[str, Any]:
    """The schema of the whole file: JSON Schema, draft 7."""
    from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

    from raincheck.config.settings import SECTION_MODELS, Settings

    class ForToml(GenerateJsonSchema):
        """TOML has no null, and what editors show of a key is its description."""

        def nullable_schema(self, schema: Any) -> JsonSchemaValue:
            return self.generate_inner(schema["schema"])

        def default_schema(self, schema: Any) -> JsonSchemaValue:
            made = super().default_schema(schema)
            if made.get("default") is None or "$ref" in made:
                made.pop("default", None)
            return made

        def model_schema(self, schema: Any) -> JsonSchemaValue:
            made = super().model_schema(schema)
            made.pop("title", None)
            return made

        def tagged_union_schema(self, schema: Any) -> JsonSchemaValue:
            made = super().tagged_union_schema(schema)
            made.pop("discriminator", None)
            return made

        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

    made = Settings.model_json_schema(ref_template="#/definitions/{model}", schema_generator=ForToml)
    return {
        "$schema": _DIALECT,
        "title": "raincheck.toml",
        "description": "What a raincheck server offers, and how; docs/configuration.md explains each key.",
        "type": "object",
        "additionalProperties": False,
        "properties": {name: made["properties"][name] for name in (*SECTION_MODELS, "operations")},
        "definitions": made["$defs"],
    }
