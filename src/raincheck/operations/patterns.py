"""Regular expressions of schemas, matched in linear time.

The engine is Rust's, as pydantic has it: no text makes it slow. Look-around and back-references, which only engines
that can be held up by a text have, are refused when the schema is declared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pydantic_core


class PatternRefused(ValueError):
    """The engine cannot match the pattern; its text says why, in one line."""


@lru_cache(maxsize=1024)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether the pattern is found anywhere in a text (JSON Schema 2020-12, "pattern").

    Raises:
        PatternRefused: It is no pattern of this engine's.
    """
    schema = {"type": "str", "pattern": pattern, "regex_engine": "rust-regex", "strict": True}
    try:
        # Not the shared schema types of pydantic: a plain check of a text, which makes no error.
        return pydantic_core.SchemaValidator(schema).isinstance_python  # pyright: ignore[reportArgumentType]
    except pydantic_core.SchemaError as error:
        last = str(error).strip().splitlines()[-1].strip()
        raise PatternRefused(last.removeprefix("error: ").removeprefix("SchemaError: ").rstrip(".")) from None
