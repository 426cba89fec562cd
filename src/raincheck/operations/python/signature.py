"""A Python function's parameters and result as schemas, by pydantic."""

from __future__ import annotations

import contextlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Annotated, Any, Union, cast, get_args, get_origin

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from raincheck.domain.task import Outcome
from raincheck.errors import ConfigurationError, InvalidParameters
from raincheck.operations.context import TaskContext
from raincheck.operations.json_values import stored_parameters
from raincheck.operations.pydantic_problems import pydantic_refusal
from raincheck.operations.python.costly_types import CostlyTypes, refuse_unbounded_patterns
from raincheck.operations.validation_messages import capped, no_longer_fitting, shown

_MODEL_CONFIG = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=False, allow_inf_nan=False)
_PATTERN_REFUSED = re.compile(r"regex parse error:\n\s*+(.++)\n")
_VARIADIC = {
    inspect.Parameter.VAR_POSITIONAL: "*{}",
    inspect.Parameter.VAR_KEYWORD: "**{}",
    inspect.Parameter.POSITIONAL_ONLY: "the positional-only {}",
}


class _Schema(GenerateJsonSchema):
    """Without the titles that only repeat names: tool schemas sit in every conversation."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as its base has it

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class Signature:
    """What a function takes and gives.

    Attributes:
        parameters_schema: JSON Schema of its parameters; unknown parameters are refused.
        output_schema: JSON Schema of its result, where the return annotation is an object type.
        output: The adapter for that annotation, else None.
        context_parameter: The parameter that wants the `TaskContext`, if there is one.
    """

    def __init__(self, function: Callable[..., Any], operation_type: str) -> None:
        self._operation_type = operation_type
        signature = _signature(function)
        hints = _hints(function, signature)
        self.context_parameter: str | None = None
        self._parameters: dict[str, str] = {}  # field of the model -> parameter of the function
        fields: dict[str, Any] = {}
        for index, parameter in enumerate(signature.parameters.values()):
            if parameter.kind in _VARIADIC:
                form = _VARIADIC[parameter.kind].format(parameter.name)
                raise ConfigurationError(
                    f"{function_name(function)}: {form} cannot be an operation's parameter; "
                    "every parameter needs a name of its own"
                )
            annotation = hints.get(parameter.name, Any)
            if _is_context(annotation):
                self.context_parameter = parameter.name
                continue
            field, annotation = _field(index, parameter.name, annotation, signature.parameters)
            self._parameters[field] = parameter.name
            fields[field] = (annotation, ... if parameter.default is parameter.empty else parameter.default)
        self._model = _model(function, fields)
        self.parameters_schema: Mapping[str, Any] = _parameters_schema(function, self._model, fields)
        core_schema = self._model.__pydantic_core_schema__
        refuse_unbounded_patterns(core_schema, f"operation {operation_type!r}: {function_name(function)}")
        self._costly = CostlyTypes(self.parameters_schema, core_schema)
        self.output, self.output_schema = _output(hints.get("return"))

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as JSON values, as they were given: defaults stay out, a date stays its ISO string.

        Raises:
            InvalidParameters: They do not fit.
        """
        stored, text = stored_parameters(self._operation_type, arguments)
        self._costly.check(self._operation_type, stored)
        try:
            self._model.__pydantic_validator__.validate_json(text)
        except ValidationError as error:
            raise self._invalid(error, stored) from None
        return stored

    def keywords(self, arguments: Mapping[str, Any], context: TaskContext) -> dict[str, Any]:
        """Stored arguments as the keyword arguments of the function, in its types, with defaults and context.

        Raises:
            OperationFailed: They do not fit any more: the function has changed since the task was accepted.
        """
        try:
            model = self._model.__pydantic_validator__.validate_json(pydantic_core.to_json(arguments))
        except ValidationError as error:
            raise no_longer_fitting(str(self._invalid(error))) from None
        keywords = {parameter: getattr(model, field) for field, parameter in self._parameters.items()}
        if self.context_parameter is not None:
            keywords[self.context_parameter] = context
        return keywords

    def _invalid(self, error: ValidationError, arguments: dict[str, Any] | None = None) -> InvalidParameters:
        names = self.parameters_schema["properties"]
        again = None if arguments is None else self._again
        return pydantic_refusal(self._operation_type, error, names, arguments, again)

    def _again(self, arguments: Any) -> None:
        self._model.__pydantic_validator__.validate_json(pydantic_core.to_json(arguments))


def function_name(function: Callable[..., Any]) -> str:
    """`module.name` of a function, for messages."""
    while isinstance(function, partial):
        function = cast("partial[Any]", function).func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{getattr(function, '__module__', None) or type(function).__module__}.{name}"


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(_without_marks(function))
    except (TypeError, ValueError, NameError) as error:
        raise ConfigurationError(f"{function_name(function)}: its parameters are unknown: {error}") from error


def _without_marks(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; a `partial` as if `update_wrapper` had not said that it takes what the inner function takes."""
    found: Any = inspect.unwrap(function, stop=lambda each: isinstance(each, partial))
    if not isinstance(found, partial):
        return function
    bound = cast("partial[Any]", found)
    return partial(_without_marks(bound.func), *bound.args, **bound.keywords)


def _hints(function: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    plain: Any = function
    while isinstance(plain, partial):
        plain = cast("partial[Any]", plain).func
    plain = inspect.unwrap(plain)
    if not hasattr(plain, "__globals__") and not hasattr(plain, "__func__"):
        plain = type(plain).__call__
    scope: dict[str, Any] = getattr(plain, "__globals__", {})
    raw = {name: p.annotation for name, p in signature.parameters.items() if p.annotation is not p.empty}
    if signature.return_annotation is not signature.empty:
        raw["return"] = signature.return_annotation
    hints: dict[str, Any] = {}
    for name, annotation in raw.items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            # TaskContext is known even where it is imported for the type checker alone.
            hints.update(
                typing.get_type_hints(
                    holder, globalns=scope, localns={"TaskContext": TaskContext} | scope, include_extras=True
                )
            )
        except Exception as error:  # evaluating an annotation runs the user's code
            raise ConfigurationError(
                f"{function_name(function)}: the annotation of {name!r} cannot be read: "
                f"{type(error).__name__}: {capped(str(error))}"
            ) from error
    return hints


def _is_context(annotation: Any) -> bool:
    if annotation is TaskContext:
        return True
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        return any(_is_context(part) for part in get_args(annotation))
    return False


def _field(index: int, name: str, annotation: Any, taken: Collection[str]) -> tuple[str, Any]:
    # A model takes no field that starts with "_" or is named as one of its own methods.
    if name.startswith("_") or hasattr(BaseModel, name):
        field = f"field_{index}"
        while field in taken:
            field += "_"
        return field, Annotated[annotation, Field(alias=name)]
    return name, annotation


def _model(function: Callable[..., Any], fields: dict[str, Any]) -> type[BaseModel]:
    try:
        return _model_of(fields)
    except Exception as error:  # a type of the user's may say itself what its schema is
        raise ConfigurationError(f"{function_name(function)}: {_why_no_model(error, fields)}") from error


def _model_of(fields: dict[str, Any]) -> type[BaseModel]:
    return create_model("Parameters", __config__=_MODEL_CONFIG, **fields)


def _why_no_model(error: Exception, fields: dict[str, Any]) -> str:
    lines = str(error).splitlines()
    if (refused := _PATTERN_REFUSED.search(str(error))) is not None:
        return f"pattern {shown(refused[1])} cannot be matched: {lines[-1].strip().removeprefix('error: ')}"
    told = f"{_first_refused(fields, lambda model: model)}, which has no schema"
    # pydantic says there which library's type is to be taken.
    version = isinstance(error, PydanticUserError) and error.code == "typed-dict-version"
    return f"{told}: {lines[0]}" if version else told


def _first_refused(fields: dict[str, Any], use: Callable[[type[BaseModel]], Any]) -> str:
    """Names the parameter that fails where a model of it alone is used so, and its type."""
    for field, (annotation, default) in fields.items():
        parts = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
        name = next((part.alias for part in parts if getattr(part, "alias", None)), field)
        refused = f"parameter {name!r} is of type {capped(inspect.formatannotation(parts[0]), 80)}"
        with contextlib.suppress(Exception):
            use(_model_of({field: (annotation, default)}))
            refused = ""
        if refused:
            return refused
    return "its parameters together are of types"


def _parameters_schema(function: Callable[..., Any], model: type[BaseModel], fields: dict[str, Any]) -> dict[str, Any]:
    try:
        schema = model.model_json_schema(schema_generator=_Schema)
    except Exception as error:
        refused = _first_refused(fields, lambda model: model.model_json_schema(schema_generator=_Schema))
        raise ConfigurationError(f"{function_name(function)}: {refused}, which JSON Schema cannot tell") from error
    schema.pop("title", None)
    schema.setdefault("properties", {})
    return schema


def _output(annotation: Any) -> tuple[TypeAdapter[Any] | None, dict[str, Any] | None]:
    if annotation in (None, type(None), Any, inspect.Signature.empty) or annotation is Outcome:
        return None, None
    with contextlib.suppress(Exception):
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        schema = adapter.json_schema(mode="serialization", schema_generator=_Schema)
        if schema.get("type") == "object":
            return adapter, schema
    return None, None
