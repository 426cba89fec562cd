"""`[state]`: where tasks are kept, and for how long; and what addresses of stores and queues look like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from raincheck.config.section import Retention, Section

URL_FORMS: Mapping[str, tuple[str, ...]] = {
    "postgres": ("postgresql://", "postgres://"),
    "redis": ("redis://", "rediss://", "unix://"),
    "dynamodb": ("http://", "https://"),
    "docket": ("redis://", "rediss://", "unix://"),
    "procrastinate": ("postgresql://", "postgres://"),
}
"""How the address of each store or queue on the network may begin."""

_ADDRESS = re.compile(r"([a-z]+://)(?:[^@/?#]*@)?([^@?#]*)(?:[?#][^@]*)?")


class StateSettings(Section):
    """`[state]`: where tasks are kept, and for how long."""

    provider: Literal["sqlite", "postgres", "redis", "dynamodb", "memory"] = Field(
        default="sqlite", description="The kind of store. `memory` forgets every task when the server ends."
    )
    url: str = Field(
        default="",
        repr=False,
        description="For `sqlite` the path of the file, relative to the configuration file's folder; "
        "empty: a file of this configuration's own in the folder `raincheck` of the user's state folder. "
        "For `postgres` `postgresql://…`, for `redis` `redis://…`, `rediss://…` or `unix://…`; for `dynamodb` the "
        "endpoint, empty for AWS's own. Better in the environment (`RAINCHECK_STATE__URL`) where it holds a password.",
    )
    synchronous: Literal["full", "normal"] = Field(
        default="full",
        description="For `sqlite`: `full` survives a power cut, `normal` is faster and survives the death of the "
        "process, but a power cut may take every ticket since the start or the last 16 MB of writes: what was done "
        "since starts again, and fencing numbers repeat.",
    )
    ttl_seconds: Retention = Field(
        default=86400, description="Retention: how long a task is kept, counted from its settling."
    )
    key_prefix: str = Field(
        default="mcp_task:",
        min_length=1,
        max_length=100,
        pattern=r"^[^{}*?\[\]\\\s]+$",
        description="For `redis`: starts every key.",
    )
    schema_name: str = Field(
        default="raincheck",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="For `postgres`: the schema that holds the tables; it is made if it is not there.",
    )
    table: str = Field(
        default="raincheck_tasks",
        pattern=r"^[A-Za-z0-9_.-]{3,255}$",
        description="For `dynamodb`: the table; it is made if it is not there.",
    )
    region: str = Field(
        default="",
        pattern=r"^[a-z0-9-]*$",
        description="For `dynamodb`: the AWS region; empty: as the AWS environment says.",
    )
    migrate: Literal["auto", "check"] = Field(
        default="auto",
        description="What a start does where the schema of a store on the network is missing or older: `auto` makes or "
        "upgrades it; `check` stops with one line, and `raincheck store migrate` does it.",
    )
    pool_size: int = Field(
        default=10, ge=1, le=1000, description="How many connections a process keeps to a store on the network."
    )
    timeout_seconds: float = Field(
        default=5,
        ge=0.1,
        le=60,
        description="How long a store may take for one call, before the caller is told that it is not available: on "
        "the network connecting included, for `sqlite` while another process has the file locked.",
    )
    tls_ca: str = Field(
        default="",
        description="A file with the certificates that the store's server is checked against; set, TLS is required.",
    )
    tls_cert: str = Field(default="", description="This client's certificate, where the store's server asks for one.")
    tls_key: str = Field(default="", description="The key of `tls_cert`.")

    @model_validator(mode="after")
    def _fits_the_provider(self) -> StateSettings:
        forms = URL_FORMS.get(self.provider, ())
        if self.provider == "sqlite":
            if "://" in self.url or "\0" in self.url or self.url.startswith(("file:", ":memory:")):
                raise ValueError("'url' must be a file's path for the provider \"sqlite\"")
        elif self.provider == "memory":
            if self.url:
                raise ValueError("'url' must be empty for the provider \"memory\"")
        elif not self.url.startswith(forms) and (self.url or self.provider != "dynamodb"):
            # Never the value: it may hold a password.
            raise ValueError(f"'url' must begin with {' or '.join(forms)} for the provider \"{self.provider}\"")
        elif not is_address(self.url):
            raise ValueError("'url' is no valid address: its host is malformed")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("'tls_cert' and 'tls_key' go together")
        return self


def is_address(url: str) -> bool:
    """Whether an address can be taken apart: the brackets round its host, if any, are whole."""
    try:
        urlsplit(url)
    except ValueError:
        return False
    return True


def public_url(url: str) -> str:
    """An address as it may be shown: without user, password and options; only its scheme where it is malformed."""
    found = _ADDRESS.fullmatch(url)
    if found is None:
        scheme, colon, _ = url.partition("://")
        return f"{scheme}{colon}…" if colon and scheme.isalpha() else "…"
    return found[1] + found[2]
