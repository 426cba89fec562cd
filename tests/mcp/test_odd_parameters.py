"""Parameters of any name and schema: listed as they are declared, and given to the operation under their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client

from raincheck.config.loading import settings_of
from raincheck.mcp.server.serve import make_server
from raincheck.operations.python.signature import Signature

NAMES = (
    *("ctx", "ctx0", "p0", "p1", "model_config", "model_dump_one_level", "model_fields", "model_post_init", "schema"),
    *("self", "cls", "arguments", "context", "params", "class", "_private", "__class__"),
    *("with-dash", "with space", "ä", "copy", "json", "validate", "$ref", "1st"),
)


@pytest.mark.parametrize("schema", [{"type": "string"}, True, {"$ref": "#/$defs/text"}], ids=["typed", "true", "ref"])
async def test_a_parameter_may_have_any_name(tmp_path: Path, schema: Any) -> None:
    properties = dict.fromkeys(NAMES, schema)
    parameters = {"type": "object", "properties": properties, "$defs": {"text": {"type": "string"}}}
    names = [name for name in NAMES if name.isidentifier() and name.isascii()]
    table = {
        "kind": "command",
        "argv": ["echo", *(f"{{{name}}}" for name in names)],
        "parameters": parameters,
        "mode": "inline",
    }
    settings = settings_of({"state": {"provider": "memory"}, "operations": {"odd": table}}, "a test")
    server, rc = make_server(settings)
    async with rc.running(), Client(server) as client:
        (tool,) = [tool for tool in (await client.list_tools()).tools if tool.name == "odd"]
        assert tool.input_schema["properties"] == properties
        result = await client.call_tool("odd", {name: f"<{name}>" for name in NAMES})
        assert result.content[0].text == " ".join(f"<{name}>" for name in names)  # type: ignore[union-attr] # pyright: ignore
        # Other code of a server lists and calls its tools without a client.
        (listed,) = [tool for tool in await server.list_tools() if tool.name == "odd"]
        assert set(listed.input_schema["properties"]) == set(NAMES)


@pytest.mark.parametrize("name", ["ctx", "model_config", "model_dump_one_level", "model_fields", "schema", "copy"])
def test_a_function_may_name_its_parameters_so(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def odd({name}: str, other: int = 1): return {name}", scope)
    signature = Signature(scope["odd"], "odd")
    assert signature.validate({name: "x"}) == {name: "x"}


def test_a_made_up_name_is_no_other_parameter() -> None:
    def odd(_x: int, field_0: str, field_0_: str = "c") -> None: ...

    signature = Signature(odd, "odd")
    assert signature.validate({"_x": 1, "field_0": "b"}) == {"_x": 1, "field_0": "b"}
    keywords = signature.keywords({"_x": 1, "field_0": "b"}, None)  # type: ignore[arg-type] # pyright: ignore
    assert keywords == {"_x": 1, "field_0": "b", "field_0_": "c"}
