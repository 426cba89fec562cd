"""`[operations.NAME]`: who may call it, and what of its caller it is given."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from raincheck.config.section import Section
from raincheck.errors import ConfigurationError
from raincheck.operations.callers import check_callers


class OperationCallers(Section):
    """The keys of an operation's table that are about its callers."""

    callers: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description="The scopes that may call it, as docs/auth.md lists them (`local`, `principal:client=NAME` …), `*` "
        "for any text in one; others neither see it nor may call it. Empty: every one.",
    )
    required_scopes: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description="OAuth scopes that a caller's token must have, all of them; the local user needs none.",
    )
    caller_claims: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(), description="Claims of the caller's token that are kept with its tasks (`TaskContext.caller`)."
    )
    caller_token: bool = Field(
        default=False,
        description="Whether the operation gets the caller's access token; it is kept sealed, so [encryption] must "
        "have a key.",
    )
    forward_headers: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description="Headers of the caller's HTTP request that the operation gets; kept sealed, as the token is.",
    )

    @model_validator(mode="after")
    def _are_names(self) -> OperationCallers:
        try:
            check_callers(
                callers=self.callers,
                required_scopes=self.required_scopes,
                caller_claims=self.caller_claims,
                forward_headers=self.forward_headers,
            )
        except ConfigurationError as error:
            raise ValueError(error.message) from None
        return self
