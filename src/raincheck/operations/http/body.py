"""The body of a request of kind http: text, a form or JSON, each value encoded so that it stays what it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast
from urllib.parse import quote
from xml.sax.saxutils import escape

from raincheck.errors import ConfigurationError
from raincheck.operations.templates import Placeholder, Template, formatted
from raincheck.operations.validation_messages import capped

_FORM = "application/x-www-form-urlencoded"
_FORM_TEXT = re.compile(r"[\w.\[\]%-]+=[^\s&]*(?:&[\w.\[\]%-]+=[^\s&]*)*")
_QUOTES = {'"': "&quot;", "'": "&#39;"}

Parse = Callable[[str, str], Template]
"""Makes a template of a text; the second argument is its key, for messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BodyDeclaration:
    """What is declared of a body; see `http_operation`."""

    body: Any = None
    form: Mapping[str, str] | None = None
    raw: bool = False


class Body(Protocol):
    """A body with places for values.

    Attributes:
        content_type: What it is sent as, where no header says otherwise.
        names: The parameters that it uses.
    """

    content_type: str
    names: frozenset[str]

    def filled(self, values: Mapping[str, Any]) -> bytes:
        """The body with its values; absent and null ones are left out as its kind does it."""
        ...


def body_of(declared: BodyDeclaration, content_type: Template | None, parse: Parse, place: str) -> Body | None:
    """The declared body; None where none is declared.

    Args:
        declared: The declaration.
        content_type: The declared header of that name.
        parse: Makes templates.
        place: Whose body it is, for messages.

    Raises:
        ConfigurationError: The declaration contradicts itself, or values cannot be encoded for its Content-Type.
    """
    body, form = declared.body, declared.form
    if body is not None and form is not None:
        raise ConfigurationError(f"{place}: 'body' and 'form' exclude each other")
    if declared.raw and not isinstance(body, str):
        raise ConfigurationError(f"{place}: raw = true is for a body that is a text")
    media_type = None if content_type is None else _media_type(content_type)
    if form is not None:
        if media_type not in (None, _FORM):
            raise ConfigurationError(f"{place}: a form is sent as {_FORM}, not as {capped(str(media_type), 60)}")
        return _FormBody([(name, parse(value, f"form.{capped(name, 40)}")) for name, value in form.items()])
    if body is None:
        return None
    if not isinstance(body, str):
        if media_type in (_FORM, "multipart/form-data"):
            raise ConfigurationError(f"{place}: a table or list is sent as JSON; for {_FORM} write form = {{...}}")
        return JsonBody(body, parse)
    template = parse(body, "body")
    if declared.raw or not template.names:
        return _TextBody(template, str)
    place = f"{place}: body"
    return _text_body(template, body, media_type or _likely_type(template, body, place), parse, place)


def _text_body(text: Template, source: str, media_type: str, parse: Parse, place: str) -> Body:
    if media_type == _FORM:
        return _FormText([parse(pair, "body") for pair in source.split("&")])
    if media_type.endswith(("/json", "+json")):
        return _JsonText(text, place)
    if media_type.endswith(("/xml", "+xml")) or media_type == "text/html":
        return _TextBody(text, lambda value: escape(value, _QUOTES))
    if media_type == "text/plain":
        return _TextBody(text, str)
    raise ConfigurationError(
        f"{place}: values cannot be encoded for the Content-Type {capped(media_type, 60)!r}; allowed: {_FORM}, JSON, "
        "XML, text/html and text/plain, in UTF-8; raw = true fills values in as they are"
    )


def _likely_type(text: Template, source: str, place: str) -> str:
    """What an API takes the text for that is told nothing of it: a value must not become a part of that."""
    begins = source.lstrip()
    if begins.startswith(("{{", "[")):
        with suppress(ConfigurationError):
            return _JsonText(text, place).content_type
    if _FORM_TEXT.fullmatch(source):
        return _FORM
    if text.names and (begins.startswith("<") or ("=" in source and "&" in source)):
        raise ConfigurationError(
            f"{place}: a Content-Type header must say what this body is, so that values are encoded for it; "
            "raw = true fills them in as they are"
        )
    return "text/plain"


def _media_type(header: Template) -> str:
    """The type that a header declares, in lower case; "?" where a caller or another charset decides what is read."""
    if header.names:
        return "?"
    declared, _, parameters = "".join(part for part in header.parts if isinstance(part, str)).partition(";")
    charset = next((each.partition("=")[2] for each in parameters.lower().split(";") if "charset=" in each), "")
    return declared.strip().lower() if charset.strip(" \"'") in ("", "utf-8", "utf8", "us-ascii") else "?"


class _TextBody:
    """Text as it is, each value encoded in the same way."""

    content_type = "text/plain; charset=utf-8"

    def __init__(self, text: Template, encode: Callable[[str], str]) -> None:
        self.names = text.names
        self._text = text
        self._encode = encode

    def filled(self, values: Mapping[str, Any]) -> bytes:
        present = {name: value for name, value in values.items() if value is not None}
        return self._text.render(present, self._encode).encode()


class _FormText:
    """A form that is written out, its pairs joined by `&`; a pair that uses an absent parameter is left out."""

    content_type = _FORM

    def __init__(self, pairs: Sequence[Template]) -> None:
        self.names = frozenset[str]().union(*(pair.names for pair in pairs))
        self._pairs = pairs

    def filled(self, values: Mapping[str, Any]) -> bytes:
        present = {name: value for name, value in values.items() if value is not None}
        filled = [pair.render(present, _quoted) for pair in self._pairs if pair.names <= present.keys()]
        return "&".join(filled).encode()


class _FormBody:
    """A form's fields by name; a field that uses an absent parameter is left out, and an array is one for each item."""

    content_type = _FORM

    def __init__(self, fields: Sequence[tuple[str, Template]]) -> None:
        self.names = frozenset[str]().union(*(value.names for _, value in fields))
        self._fields = fields

    def filled(self, values: Mapping[str, Any]) -> bytes:
        present = {name: value for name, value in values.items() if value is not None}
        filled: list[str] = []
        for name, template in self._fields:
            if template.names <= present.keys():
                filled += pairs(name, present[template.only] if template.only else template.render(present))
        return "&".join(filled).encode()


class _JsonText:
    """JSON that is written out: within quotes a value is text, elsewhere it is JSON of its own type."""

    content_type = "application/json"

    def __init__(self, text: Template, place: str) -> None:
        self.names = text.names
        self._parts = list(_with_quotes(text.parts))
        try:
            json.loads(self.filled({}))
        except ValueError:
            raise ConfigurationError(
                f"{place}: with its values it is not JSON, as its Content-Type says; raw = true sends it as it is"
            ) from None

    def filled(self, values: Mapping[str, Any]) -> bytes:
        return "".join(
            part if isinstance(part, str) else _json_text(values.get(part.name), quoted=quoted)
            for part, quoted in self._parts
        ).encode()


def _with_quotes(parts: Sequence[str | Placeholder]) -> Iterator[tuple[str | Placeholder, bool]]:
    """The pieces of JSON text, and whether each begins within a text of it."""
    quoted = escaped = False
    for part in parts:
        yield part, quoted
        for sign in part if isinstance(part, str) else "":
            if escaped:
                escaped = False
            elif sign == "\\":
                escaped = quoted
            elif sign == '"':
                quoted = not quoted


def _json_text(value: Any, *, quoted: bool) -> str:
    if not quoted:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return "" if value is None else json.dumps(formatted(value), ensure_ascii=False)[1:-1]


_ABSENT = object()


class JsonBody:
    """A table or list, sent as JSON; members and items that use an absent parameter are left out, null stays null."""

    content_type = "application/json"

    def __init__(self, body: Any, parse: Parse) -> None:
        self._body = _compiled(body, parse)
        self.names = _names(self._body)

    def filled(self, values: Mapping[str, Any]) -> bytes:
        """See `Body`."""
        return json_bytes_of(_filled(self._body, values))


def _compiled(body: Any, parse: Parse) -> Any:
    if isinstance(body, str):
        return parse(body, "body")
    if isinstance(body, Mapping):
        members = cast("Mapping[str, Any]", body)
        return {str(name): _compiled(value, parse) for name, value in members.items()}
    if isinstance(body, Sequence):
        return [_compiled(value, parse) for value in cast("Sequence[Any]", body)]
    return body


def _filled(body: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(body, Template):
        if not body.names <= values.keys():
            return _ABSENT
        return values[body.only] if body.only is not None else body.render(values)
    if isinstance(body, dict):
        members = {name: _filled(value, values) for name, value in cast("dict[str, Any]", body).items()}
        return {name: value for name, value in members.items() if value is not _ABSENT}
    if isinstance(body, list):
        return [value for item in cast("list[Any]", body) if (value := _filled(item, values)) is not _ABSENT]
    return body


def _names(body: Any) -> frozenset[str]:
    if isinstance(body, Template):
        return body.names
    parts: Iterator[Any] = iter(())
    if isinstance(body, dict):
        parts = iter(cast("dict[str, Any]", body).values())
    elif isinstance(body, list):
        parts = iter(cast("list[Any]", body))
    return frozenset[str]().union(*(_names(part) for part in parts))


def pairs(name: str, value: Any) -> list[str]:
    """`name=value`, percent-encoded, as queries and forms have it; one for each item of an array."""
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [f"{_quoted(name)}={_quoted(formatted(item))}" for item in values]


def json_bytes_of(value: Any) -> bytes:
    """A value as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _quoted(text: str) -> str:
    return quote(text, safe="")
