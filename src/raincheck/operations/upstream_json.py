"""Where a value stands in a JSON document: JSONPath (RFC 9535), compiled when the operation is declared."""

from __future__ import annotations

from typing import Any

from raincheck.errors import ConfigurationError, MissingDependency
from raincheck.operations.problems import capped

__all__ = ["JsonPath"]


class JsonPath:
    """One path.

    Raises:
        ConfigurationError: It is none.
        MissingDependency: The library is not installed.
    """

    def __init__(self, text: str, *, place: str) -> None:
        try:
            import jsonpath_rfc9535
        except ModuleNotFoundError as error:
            raise MissingDependency('JSON paths need jsonpath-rfc9535: pip install "raincheck[server]"') from error
        try:
            self._query = jsonpath_rfc9535.compile(text)
        except jsonpath_rfc9535.JSONPathError as error:
            why = capped(str(error), 100)
            raise ConfigurationError(
                f"{place}: {capped(text, 60)!r} is no JSON path (RFC 9535), as in $.status: {why}"
            ) from None
        self._error = jsonpath_rfc9535.JSONPathError

    def first(self, document: Any) -> Any:
        """The first value that it finds in the document; None where there is none."""
        try:
            node = self._query.find_one(document)
        except self._error:
            # A document nested beyond what the library follows.
            return None
        return None if node is None else node.value
