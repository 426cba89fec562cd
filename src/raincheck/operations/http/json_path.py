"""Where a value stands in a JSON document: JSONPath (RFC 9535), compiled when the operation is declared."""

from __future__ import annotations

import functools
import re
from typing import Any

from raincheck.errors import ConfigurationError
from raincheck.extras import missing_extra
from raincheck.operations.patterns import PatternRefused, matcher
from raincheck.operations.validation_messages import capped


class JsonPath:
    """One path.

    Raises:
        ConfigurationError: It is none.
        MissingDependency: The library is not installed.
    """

    def __init__(self, text: str, *, place: str) -> None:
        try:
            import jsonpath_rfc9535

            compile_path = _linear_environment().compile
        except ModuleNotFoundError as error:
            raise missing_extra("JSON paths need jsonpath-rfc9535", "server") from error
        try:
            self._query = compile_path(text)
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


_LONGEST_PATTERN = 1000
# In I-Regexp (RFC 9485) a dot is any character but a line feed or a carriage return; elsewhere it is escaped, or in
# a class.
_DOTS = re.compile(r"(\\.|\[(?:\\.|[^\]\\])*+\]?)|\.", re.DOTALL)


@functools.cache
def _linear_environment() -> Any:
    """The library's, with `match` and `search` by an engine that no document can hold up."""
    import jsonpath_rfc9535
    from iregexp_check import check
    from jsonpath_rfc9535.function_extensions import Match, Search

    def found(text: Any, pattern: Any, form: str) -> bool:
        if not (isinstance(text, str) and isinstance(pattern, str) and len(pattern) <= _LONGEST_PATTERN):
            return False
        try:
            return check(pattern) and matcher(form.format(_DOTS.sub(_dot, pattern)))(text)
        except PatternRefused:
            return False

    class LinearMatch(Match):
        def __call__(self, string: Any, pattern: object) -> bool:
            return found(string, pattern, "^(?:{})$")

    class LinearSearch(Search):
        def __call__(self, string: Any, pattern: object) -> bool:
            return found(string, pattern, "{}")

    environment = jsonpath_rfc9535.JSONPathEnvironment()
    environment.function_extensions |= {"match": LinearMatch(), "search": LinearSearch()}
    return environment


def _dot(found: re.Match[str]) -> str:
    return found[1] or r"[^\n\r]"
