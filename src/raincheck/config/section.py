"""The base of every table of `raincheck.toml`, and shared bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_TEN_YEARS = 315_360_000
_HALF_GIB = 536_870_912

Duration = Annotated[float, Field(gt=0, le=_TEN_YEARS)]
Size = Annotated[int, Field(ge=1, le=_HALF_GIB)]
InlineWait = Annotated[float, Field(ge=0, le=60)] | Literal["auto"]
Retries = Annotated[int, Field(ge=0, le=100)]
Retention = Annotated[float, Field(ge=1, le=_TEN_YEARS)]


class Section(BaseModel):
    """One table of the file. Values are taken as they are typed there: no text for a number, no boolean for either."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        # Built when it is used first: of the kinds of operations a file has one or two.
        defer_build=True,
    )
