"""`[encryption]`: the keys that payloads in the store are sealed with. No value of this table is ever repeated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from raincheck.config.section import Section
from raincheck.encryption.cipher import key_id, read_key
from raincheck.errors import ConfigurationError

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class EncryptionSettings(Section):
    """`[encryption]`: payloads at rest."""

    keys: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        repr=False,
        description="Where the keys are: each `${NAME}`, the environment variable that holds one (`raincheck store "
        "new-key` makes one). The first seals parameters, questions, results and checkpoints before they are stored, "
        "all of them open; empty: payloads are stored as they are.",
    )

    accept_plain: bool = Field(
        default=False,
        description="Whether payloads that are not sealed are read as they are: for a store from before there were "
        "keys, until `raincheck store keys --close` says that none is left. Otherwise they are refused: whoever can "
        "write to the store could put them there.",
    )

    def key_bytes(self, environ: Mapping[str, str]) -> list[bytes]:
        """The keys, the sealing one first; none where payloads are not sealed.

        Raises:
            ConfigurationError: A variable is missing or holds no key, or two hold the same.
        """
        keys: list[bytes] = []
        for reference in self.keys:
            name = reference[2:-1]
            text = environ.get(name, "")
            if not text.strip():
                raise ConfigurationError(f"there is no environment variable {name}")
            try:
                key = read_key(text)
            except ValueError as error:
                raise ConfigurationError(f"{name}: {error}") from None
            if key_id(key) in map(key_id, keys):
                raise ConfigurationError(f"{name}: another variable holds the same key")
            keys.append(key)
        return keys

    @field_validator("keys", mode="after")
    @classmethod
    def _are_references(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_REFERENCE.fullmatch(each) for each in value):
            raise ValueError("each must be ${NAME}, an environment variable; keep the key itself out of the file")
        return value
