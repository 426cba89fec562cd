"""`[execution]` and `[worker]`: how operations are run, and by which processes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raincheck.config.section import Duration, InlineWait, Retries, Section, Size
from raincheck.config.sections.inherit import Inherit


class ExecutionSettings(Section):
    """`[execution]`: how operations are run, unless their own table says otherwise."""

    engine: Literal["local", "docket", "procrastinate"] = Field(
        default="local",
        description="What brings tasks to workers: `local` runs them where they were accepted, and looks for others "
        "in the store; `docket` (Redis) and `procrastinate` (PostgreSQL) are queues that any number of workers serve.",
    )
    queue_url: str = Field(
        default="",
        repr=False,
        description="The queue's server: `redis://…` for `docket`, `postgresql://…` for `procrastinate`; empty: the "
        "store's. Where `procrastinate` has the store's own database, its entry is written in the task's transaction.",
    )
    queue_name: str = Field(
        default="raincheck",
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="Which queue: servers and workers that belong together have the same one.",
    )
    reconcile_seconds: float = Field(
        default=5,
        ge=0.2,
        le=3600,
        description="How long a task may be pending before workers with a free place take it from the store, without "
        "its queue: a queue that lost it is a delay, no loss.",
    )
    max_concurrency: int = Field(
        default=50, ge=0, le=100_000, description="How many tasks run at once in this process; 0: it only accepts them."
    )
    default_timeout_seconds: Duration = Field(
        default=120,
        description="The timeout: the bound on one attempt's run, of declared operations. Tools that `tools=` names "
        "have none: their deadline ends them.",
    )
    default_max_wait_seconds: Duration = Field(
        default=3600, description="The deadline, counted from acceptance, where the caller names none."
    )
    max_wait_ceiling_seconds: Duration = Field(
        default=86400, description="The longest deadline that a caller may ask for."
    )
    retry_attempts: Retries = Field(default=0, description="How often a failed attempt is run again, with backoff.")
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="How often a task is started before it is given up, where its workers are lost and "
        '`on_worker_lost = "retry"`.',
    )
    inline_wait_seconds: InlineWait = Field(
        default="auto",
        description='How long a call of an operation with `mode = "auto"` waits for the result before it gives a '
        'handle. `"auto"`: 2 seconds without a history; with one, as long as most calls take if that is at most 5 '
        "seconds, and not at all if it is more.",
    )
    inherit: Inherit = Field(
        default=(),
        description="Environment variables of the server that commands and isolated functions inherit, beside `PATH`, "
        "`HOME`, `LANG`, `LC_ALL`, `LC_CTYPE`, `TZ` and `TMPDIR`; never one that a `${NAME}` of this file stands for.",
    )
    max_parameters_bytes: Size = Field(default=1024 * 1024, description="The largest parameters of a call, as JSON.")
    max_result_bytes: Size = Field(default=16 * 1024 * 1024, description="The largest result, as JSON.")
    lease_seconds: float = Field(
        default=15,
        ge=1,
        le=3600,
        description="A worker's right to a task, unless renewed; a lost worker is noticed within about two of these.",
    )
    drain_seconds: float = Field(
        default=5,
        ge=0,
        le=3600,
        description="How long a server or a worker that is told to stop lets running tasks finish.",
    )

    outlive_client: bool | Literal["auto"] = Field(
        default="auto",
        description="Whether tasks run in a local worker, a process of its own that `serve` starts and that lives on "
        'when the client ends the server: needs the store `sqlite` and the engine `local`. `"auto"`: where the '
        "transport is `stdio`.",
    )

    @model_validator(mode="after")
    def _deadlines_fit(self) -> ExecutionSettings:
        given = "default_max_wait_seconds" in self.model_fields_set
        if given and self.default_max_wait_seconds > self.max_wait_ceiling_seconds:
            raise ValueError(too_long(self.default_max_wait_seconds, self.max_wait_ceiling_seconds))
        return self


class WorkerSettings(Section):
    """`[worker]`: what only `raincheck worker` has; how it runs tasks is in `[execution]`."""

    health_port: int = Field(
        default=0, ge=0, le=65535, description="The port on which it answers /healthz and /readyz; 0: none."
    )
    health_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="The address to answer them on: `0.0.0.0` where a probe comes from outside.",
    )
    idle_seconds: float = Field(
        default=60,
        ge=1,
        le=86400,
        description="How long the local worker that a stdio server starts waits for new work before it ends.",
    )


def too_long(wished: float, ceiling: float) -> str:
    """What is told about a deadline that is above its ceiling."""
    return f"default_max_wait_seconds ({wished:g}) is above max_wait_ceiling_seconds ({ceiling:g})"
