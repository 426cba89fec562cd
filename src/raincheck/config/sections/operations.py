"""`[operations.NAME]`: what can be run, by its `kind`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, Literal, cast

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from raincheck.config.section import Duration, InlineWait, Retention, Retries, Section, Size
from raincheck.config.sections.callers import OperationCallers
from raincheck.config.sections.inherit import Inherit
from raincheck.config.sections.limits import OperationLimits
from raincheck.config.sections.results import InlineSize
from raincheck.config.sections.upstream_jobs import PollSettings
from raincheck.config.sections.webhooks import OperationWebhooks
from raincheck.operations.operation import AnswerBy, Dedupe, LostPolicy, Mode, WithoutTasks


class _Declared(Section):
    description: str = Field(
        default="",
        description="One or two sentences for the model that chooses tools; for `python` the docstring where unset.",
    )
    title: str | None = Field(default=None, min_length=1, description="A name for people.")
    mode: Mode = Field(
        default="auto",
        description="`inline`: the call waits for the result, no task; `auto`: the result if it is there within "
        "`inline_wait_seconds`, else a ticket; `task`: always a ticket.",
    )
    inline_wait_seconds: InlineWait | None = Field(default=None, description="As in [execution].")
    without_tasks: WithoutTasks = Field(
        default="ticket",
        description="What a client that declares no task surface gets: a `ticket`, the result after a `wait`, "
        "or an error (`refuse`).",
    )
    timeout_seconds: Duration | None = Field(
        default=None, description="The timeout; unset: `default_timeout_seconds` of [execution]."
    )
    default_max_wait_seconds: Duration | None = Field(default=None, description="As in [execution].")
    max_wait_ceiling_seconds: Duration | None = Field(default=None, description="As in [execution].")
    ttl_seconds: Retention | None = Field(default=None, description="As in [state].")
    on_worker_lost: LostPolicy = Field(
        default="fail",
        description="What becomes of a task whose worker is lost: `fail` (it never starts twice) or `retry` (it must "
        "be harmless to run it again).",
    )
    secrets: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description="Names of parameters, and of members of the result, that are secret: the caller sees them, lists, "
        "logs and webhooks do not. Besides, what a schema marks with `writeOnly = true` is.",
    )
    dedupe: Dedupe = Field(
        default="keys",
        description="`keys`: one task for one `idempotency_key`; `inflight`: besides, a call without a key that is "
        "equal to one under way (same caller, same parameters) gets that one's ticket.",
    )
    answer_by: AnswerBy = Field(
        default="anyone",
        description="Who may answer its questions: `anyone` (a model too, by `provide_task_input`), or the `user` "
        "alone, whom the client asks itself.",
    )
    retry_attempts: Retries | None = Field(default=None, description="As in [execution].")
    max_result_bytes: Size | None = Field(default=None, description="As in [execution].")
    max_inline_bytes: InlineSize | None = Field(default=None, description="As in [results].")


class _Operation(OperationWebhooks, OperationLimits, OperationCallers, _Declared):
    """What every operation's table may say."""


class PythonSettings(_Operation):
    """An operation of kind "python": a function."""

    kind: Literal["python"] = Field(description="A function, sync or async.")
    target: str = Field(
        pattern=r"^[^:\s]+:[^:\s]+$",
        description='The function, as "module:function"; the configuration file\'s folder is importable.',
    )
    isolation: Literal["none", "process"] = Field(
        default="none",
        description="`process` runs each task in a process of its own, which can be killed; `none` runs async "
        "functions on the event loop and sync ones in a thread.",
    )
    inherit: Inherit | None = Field(
        default=None,
        description='With `isolation = "process"`: environment variables that the process inherits, as in [execution].',
    )

    @model_validator(mode="after")
    def _inherits_in_a_process(self) -> PythonSettings:
        if self.inherit is not None and self.isolation != "process":
            raise ValueError("'inherit' is for isolation = \"process\": other functions have the server's environment")
        return self


_PARAMETERS = Field(
    default_factory=dict[str, Any],
    validate_default=True,
    description='A JSON Schema of an object (it has `type = "object"`), or the short form: a table of each '
    "parameter's name and schema, where those without a `default` are required.",
)


class _WithParameters(_Operation):
    parameters: Mapping[str, Any] = _PARAMETERS

    @field_validator("parameters", mode="after")
    @classmethod
    def _as_schema(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        if value.get("type") == "object":
            return value
        for name, schema in value.items():
            if not isinstance(schema, Mapping):
                raise ValueError(
                    f"{name!r} is no table: the short form has a schema for each parameter, as in "
                    '{size = {type = "integer"}}; a whole JSON Schema has type = "object"'
                )
        return {
            "type": "object",
            "properties": dict(value),
            "required": [name for name, schema in value.items() if "default" not in schema],
            "additionalProperties": False,
        }


class CommandSettings(_WithParameters):
    """An operation of kind "command": a program, never through a shell."""

    kind: Literal["command"] = Field(description="A program, started without a shell.")
    argv: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        min_length=1, description="The program and its arguments; `{name}` is replaced by that parameter."
    )
    cwd: str | None = Field(
        default=None,
        min_length=1,
        description="The folder it runs in, relative to the configuration file's folder; unset: an empty one of "
        "its own, which is removed at its end.",
    )
    env: Mapping[str, str] = Field(
        default_factory=dict[str, str],
        description="Environment variables of its own, beside those that it inherits; `${NAME}` is replaced by that "
        "variable of the server.",
    )
    inherit: Inherit | None = Field(
        default=None, description="Environment variables that it inherits, in place of `inherit` of [execution]."
    )
    max_output_bytes: Size | None = Field(
        default=None, description="The largest stdout; unset: the operation's `max_result_bytes`."
    )
    output: Literal["auto", "json", "text"] = Field(
        default="auto",
        description='What stdout is: `"json"`, `"text"`, or `"auto"`: JSON where it is such and nothing is lost by '
        "that (a bare `3.10`, `1234e56` or whole number beyond 2^53 is a text, and so is all that holds a number with "
        "more digits than a double keeps), else the text.",
    )
    progress: str | None = Field(
        default=None,
        min_length=1,
        description="A regular expression for its progress on stderr, by named groups: `(?P<percent>…)`, or "
        "`(?P<fraction>…)` (0 to 1), or `(?P<done>…)` and `(?P<total>…)`; `(?P<text>…)` is the message.",
    )


class HttpSettings(_WithParameters):
    """An operation of kind "http": a request to an HTTP API."""

    kind: Literal["http"] = Field(description="A request to an HTTP API.")
    url: str = Field(
        pattern=r"^(https?://|\$\{)\S+$",
        description="The address; `{name}` is replaced by that parameter, `${NAME}` by that environment variable.",
    )
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"] = Field(
        default="GET", description="The request's method."
    )
    headers: Mapping[str, str] = Field(
        default_factory=dict[str, str], description="The request's headers, with the placeholders of `url`."
    )
    body: str | Mapping[str, Any] | list[Any] | None = Field(
        default=None,
        description="The request's body: text, or a table or list sent as JSON; placeholders as in `url`. In a text "
        "values are encoded as the header `Content-Type` says.",
    )
    form: Mapping[str, str] | None = Field(
        default=None, description="The fields of a form that is the body, in place of `body`; placeholders as in `url`."
    )
    raw: bool = Field(
        default=False, description="Values stand in a text `body` as they are: a caller may change the whole of it."
    )
    max_response_bytes: Size | None = Field(
        default=None, description="The largest response; unset: the operation's `max_result_bytes`."
    )
    accepted: Literal["auto", "follow", "result"] = Field(
        default="auto",
        description="What an answer `202` is: `follow`: its `Operation-Location` or `Location` is asked until the work "
        "ends; `result`: a result like any other; `auto`: followed where there is an `Operation-Location`, or a "
        "`Location` and a `Retry-After`.",
    )
    completion: Literal["answer", "callback"] = Field(
        default="answer",
        description="`callback`: the request hands the work over, with `{callback_url}` or `{callback_token}` in it, "
        "and the task waits to be called back.",
    )
    idempotency_header: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9-]{1,64}$",
        description="A header by which the API does nothing twice, such as `Idempotency-Key`: it gets the `task_ref`, "
        'and a request whose worker was lost is sent again, as with `on_worker_lost = "retry"`.',
    )
    poll: PollSettings | None = Field(default=None, description="The table [operations.NAME.poll].")

    @model_validator(mode="after")
    def _can_wait(self) -> HttpSettings:
        if self.mode == "inline" and (self.poll is not None or self.completion == "callback"):
            raise ValueError('mode = "inline" has no task that could wait: use "auto" or "task"')
        return self


OperationSettings = PythonSettings | CommandSettings | HttpSettings
"""One `[operations.NAME]` table, by its `kind`."""

OPERATION_MODELS: Mapping[str, type[PythonSettings | CommandSettings | HttpSettings]] = {
    "python": PythonSettings,
    "command": CommandSettings,
    "http": HttpSettings,
}
"""The model of an operation's table, by its `kind`."""


class ByKind:
    """Validates a table by the model of its kind, which is built when the first such table is met (tens of ms each)."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """See pydantic's `GetCoreSchemaHandler`."""
        return core_schema.no_info_plain_validator_function(_of_its_kind)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """See pydantic's `GetJsonSchemaHandler`."""
        return handler(_of_any_kind().core_schema)


def _of_its_kind(table: Any) -> OperationSettings:
    kind: Any = cast("Mapping[str, Any]", table).get("kind") if isinstance(table, Mapping) else None
    model = OPERATION_MODELS.get(kind) if isinstance(kind, str) else None
    if model is not None:
        with suppress(ValidationError):
            return model.model_validate(table)
    # What is wrong is told by the whole, with the kind in its place.
    return _of_any_kind().validate_python(table)


@cache
def _of_any_kind() -> TypeAdapter[OperationSettings]:
    return TypeAdapter(Annotated[OperationSettings, Field(discriminator="kind")])
