"""The request of an operation of kind http: templates of URL, headers and body, filled in without surprises."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from raincheck.errors import ConfigurationError, InvalidParameters
from raincheck.operations.http.body import BodyDeclaration, body_of, json_bytes_of, pairs
from raincheck.operations.http.path_parts import CONTROL, leads_out
from raincheck.operations.templates import Template, formatted
from raincheck.operations.validation_messages import Problem, capped, invalid_parameters

_ORIGIN = re.compile(r"(https?)://([^/?#\s]+)", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_COOKIE_END = re.compile(r'[\s",;\\]')
_ENVIRONMENT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# The client writes these from the body and the connection; a second truth about them splits messages.
_OURS = frozenset({"content-length", "transfer-encoding", "connection"})
_IN_QUERY = frozenset({"GET", "DELETE", "HEAD", "OPTIONS"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_SHORTEST_SECRET = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRequest:
    """What goes over the wire. May hold secrets, so its `repr` does not show them."""

    method: str
    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    content: bytes | None = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestDeclaration:
    """A request as it is declared; see `http_operation`."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: BodyDeclaration
    idempotency_header: str | None = None


class RequestTemplate:
    """A declared request.

    Attributes:
        host: Where it goes, as messages name it.
        origin: Scheme, host and port, in the form of `raincheck.egress.policy.Target.origin`.
    """

    def __init__(
        self,
        operation_type: str,
        declared: RequestDeclaration,
        *,
        parameters: Mapping[str, Any],
        always_present: frozenset[str],
        reserved: frozenset[str] = frozenset(),
    ) -> None:
        """Parse the declaration.

        Args:
            operation_type: Whose request it is.
            declared: The request, its placeholders not yet replaced.
            parameters: The names of the parameters.
            always_present: Those that are required or have a default.
            reserved: Further names that a placeholder may have, always present.

        Raises:
            ConfigurationError: See `http_operation`.
        """
        self._operation_type = operation_type
        self._parameters = {**parameters, **dict.fromkeys(reserved)}
        self._all_are_reserved = not parameters
        self._idempotency_header = declared.idempotency_header
        self._secrets: set[str] = set()
        self.method, headers = declared.method.upper(), declared.headers
        path, _, query = declared.url.partition("#")[0].partition("?")
        self._path = self._template(path, "url")
        self.host = self._checked_host(always_present | reserved)
        self._query = [self._template(pair, "url") for pair in query.split("&") if pair]
        self._headers = {name: self._header(name, value) for name, value in headers.items()}
        self._header_names = {name.lower() for name in headers}
        content_type = next((value for name, value in self._headers.items() if name.lower() == "content-type"), None)
        self._body = body_of(declared.body, content_type, self._template, f"operation {operation_type!r}")
        used = self._path.names.union(
            *(pair.names for pair in self._query),
            *(header.names for header in self._headers.values()),
            frozenset[str]() if self._body is None else self._body.names,
        )
        self.used = used
        self._rest = [name for name in parameters if name not in used]
        if self._rest and self._body is not None and self.method not in _IN_QUERY:
            raise ConfigurationError(
                f"{self._place('body')}: parameter {self._rest[0]!r} is used nowhere; "
                "use it in url, headers or body, or leave body out to send the parameters as JSON"
            )

    def prepare(self, values: Mapping[str, Any], idempotency_key: str | None = None) -> PreparedRequest:
        """Fill in the values.

        Raises:
            InvalidParameters: A value that would change the meaning of the request around it.
        """
        present = {name: value for name, value in values.items() if value is not None}
        headers = {name: self._header_value(name, template, present) for name, template in self._headers.items()}
        headers = {name: value for name, value in headers.items() if value is not None}
        if idempotency_key is not None and self._idempotency_header is not None:
            headers = {
                name: value for name, value in headers.items() if name.lower() != self._idempotency_header.lower()
            }
            headers[self._idempotency_header] = _key(idempotency_key)
        elif idempotency_key is not None and self.method not in _SAFE and "idempotency-key" not in self._header_names:
            headers["Idempotency-Key"] = _key(idempotency_key)
        content, content_type = self._content(values)
        if content_type is not None and "content-type" not in self._header_names:
            headers["Content-Type"] = content_type
        return PreparedRequest(
            method=self.method, url=self._url(present), headers=tuple(headers.items()), content=content
        )

    def own_headers(self, values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """The declared headers, for a request without a body to the same origin."""
        present = {name: value for name, value in values.items() if value is not None}
        headers = {name: self._header_value(name, template, present) for name, template in self._headers.items()}
        return tuple((name, value) for name, value in headers.items() if value is not None and not _of_body(name))

    def base_url(self, values: Mapping[str, Any]) -> str:
        """The address without its query: what relative ones are relative to."""
        return self._path.render(values, encode=lambda text: quote(text, safe=""))

    @property
    def base_names(self) -> frozenset[str]:
        """The parameters that `own_headers` and `base_url` use."""
        return self._path.names.union(*(header.names for header in self._headers.values()))

    @property
    def secrets(self) -> frozenset[str]:
        """The values that came from the environment."""
        return frozenset(self._secrets)

    def _place(self, key: str) -> str:
        return f"operation {self._operation_type!r}: {key}"

    def _template(self, text: str, key: str) -> Template:
        template = Template.parse(text, place=self._place(key), parameters=self._parameters, environment=True)
        for name in _ENVIRONMENT.findall(text):
            if len(os.environ[name]) >= _SHORTEST_SECRET:
                self._secrets.add(os.environ[name])
        return template

    def _checked_host(self, always_present: frozenset[str]) -> str:
        start = self._path.parts[0] if self._path.parts else ""
        origin = _ORIGIN.match(start) if isinstance(start, str) else None
        if origin is None:
            raise ConfigurationError(
                f"{self._place('url')}: it must begin with http:// or https:// and a host, none of it from a parameter"
            )
        if isinstance(start, str) and origin.end() == len(start) and len(self._path.parts) > 1:
            raise ConfigurationError(f"{self._place('url')}: a parameter must not change the host; put a / before it")
        for name in sorted(self._path.names - always_present):
            raise ConfigurationError(
                f"{self._place('url')}: parameter {name!r} is in the path, so it must be required or have a default"
            )
        try:
            parts = urlsplit(origin[0])
            host = parts.hostname or ""
            shown = f"[{host}]" if ":" in host else host
            own_port = parts.port not in (None, {"http": 80, "https": 443}[parts.scheme])
            self.origin = f"{parts.scheme}://{shown.removesuffix('.')}{f':{parts.port}' * own_port}"
            return f"{host}:{parts.port}" if parts.port is not None else host
        except ValueError:
            raise ConfigurationError(f"{self._place('url')}: its host or port is not valid") from None

    def _header(self, name: str, value: str) -> Template:
        place = f"headers.{capped(name, 40)}"
        if not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError(f"{self._place(place)}: not a header's name")
        if name.lower() in _OURS:
            raise ConfigurationError(f"{self._place(place)}: raincheck writes this header itself")
        template = self._template(value, place)
        if any(isinstance(part, str) and _CONTROL.search(part) for part in template.parts):
            raise ConfigurationError(f"{self._place(place)}: a header must not hold a line break or control character")
        return template

    def _header_value(self, name: str, template: Template, present: Mapping[str, Any]) -> str | None:
        if not template.names <= present.keys():
            return None
        value = template.render(present).strip()
        if _CONTROL.search(value):
            raise self._refused(
                template.names, "must not hold a line break or control character, being part of a header"
            )
        if name.lower() == "cookie" and any(_COOKIE_END.search(formatted(present[each])) for each in template.names):
            raise self._refused(template.names, 'must not hold blanks or any of " , ; \\, being part of a cookie')
        return value

    def _url(self, present: Mapping[str, Any]) -> str:
        for name in self._path.names:
            if formatted(present.get(name, "")) == "":
                raise self._refused([name], "must not be empty, being part of a path")
        controls = [name for name in self._path.names if CONTROL.search(formatted(present[name]))]
        if controls:
            raise self._refused(controls, "must not hold a line break or control character, being part of a path")
        if leads_out(self._path.parts, present):
            raise self._refused(
                self._path.names, 'must not be or hold "." or ".." in any encoding, being part of a path'
            )
        url = self._path.render(present, encode=lambda text: quote(text, safe=""))
        query = [
            pair.render(present, encode=lambda text: quote(text, safe=""))
            for pair in self._query
            if pair.names <= present.keys()
        ]
        if self.method in _IN_QUERY:
            query += [pair for name in self._rest if name in present for pair in pairs(name, present[name])]
        if not query:
            return url
        return f"{url}{'&' if '?' in url else '?'}{'&'.join(query)}"

    def _content(self, values: Mapping[str, Any]) -> tuple[bytes | None, str | None]:
        if self._body is not None:
            return self._body.filled(values), self._body.content_type
        if self.method in _IN_QUERY or self._all_are_reserved:
            return None, None
        return json_bytes_of({name: values[name] for name in self._rest if name in values}), "application/json"

    def _refused(self, names: frozenset[str] | list[str], problem: str) -> InvalidParameters:
        return invalid_parameters(
            self._operation_type, [Problem(parameter=name, problem=problem) for name in sorted(names)]
        )


def _key(idempotency_key: str) -> str:
    return quote(idempotency_key, safe="!#$&'()*+,/:;=?@[]")


def _of_body(header: str) -> bool:
    return header.lower().startswith("content-") or header.lower() in ("expect", "idempotency-key")
