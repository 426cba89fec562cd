"""`[results]`: what becomes of results that are too large for a model's context."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from raincheck.config.section import Section

_ENDPOINT = re.compile(r"(https?://[^\s/?#@]+/?)?")
InlineSize = Annotated[int, Field(ge=4096, le=1_048_576)]


class ResultsSettings(Section):
    """`[results]`: what becomes of large results."""

    max_inline_bytes: InlineSize = Field(
        default=64 * 1024,
        description="The largest result that a status or a call hands back whole; of a larger one callers get a "
        "preview and a link, and read the rest with `resources/read`.",
    )
    blobs: Literal["auto", "files", "store", "postgres", "redis", "s3", "task"] = Field(
        default="auto",
        description="Where large results are kept: in `files`, as records of the `store`, in a table of `postgres`, "
        "under keys of `redis`, in a bucket (`s3`), or in their `task` itself, which each look at it then reads whole. "
        "`auto`: `files` beside SQLite's file, the store's own server for `postgres` and `redis`, else `store`.",
    )
    folder: str = Field(
        default="",
        description="For `files`: the folder, relative to the configuration file's; every process must reach it. "
        "Empty: beside SQLite's file, with `.results` after its name.",
    )
    bucket: str = Field(
        default="",
        pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$",
        description="For `s3`: the bucket; it must be there. Credentials come from the AWS environment.",
    )
    prefix: str = Field(
        default="raincheck/",
        pattern=r"^[A-Za-z0-9_./-]{0,200}$",
        description="For `s3`: starts the name of every object.",
    )
    region: str = Field(
        default="",
        pattern=r"^[a-z0-9-]*$",
        description="For `s3`: the AWS region; empty: as the AWS environment says.",
    )
    endpoint: str = Field(
        default="",
        repr=False,
        description="For `s3`: the address of a server that is not AWS's own, as `https://minio.example.com:9000`.",
    )

    @model_validator(mode="after")
    def _fits_the_place(self) -> ResultsSettings:
        if self.blobs == "s3" and not self.bucket:
            raise ValueError("'bucket' must be set for blobs = \"s3\"")
        for key in ("bucket", "endpoint", "region"):
            if getattr(self, key) and self.blobs != "s3":
                raise ValueError(f"'{key}' is for blobs = \"s3\" only")
        if not _ENDPOINT.fullmatch(self.endpoint):
            # Never the value: it may hold a password.
            raise ValueError("'endpoint' must be an address as \"https://host:port\", without user, password and path")
        if self.folder and self.blobs != "files":
            raise ValueError("'folder' is for blobs = \"files\" only")
        if "\0" in self.folder:
            raise ValueError("'folder' must be a folder's path")
        return self
