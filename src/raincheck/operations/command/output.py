"""What a command says of itself on stderr: lines that are progress, and the rest, whose end explains a failure."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from raincheck.domain.redaction import redact
from raincheck.errors import ConfigurationError
from raincheck.operations.command.stdout_value import OutputForm
from raincheck.operations.patterns import PatternRefused, matcher

_logger = logging.getLogger(__name__)

_TAIL_BYTES = 4096
# More than is told: where it begins, a secret may have lost its head, and is found no more.
_KEPT_BYTES = 2 * _TAIL_BYTES
_LINE_BYTES = 4096
_OWN_LINE = re.compile(rb"raincheck-progress:\s*(?:([0-9]++(?:\.[0-9]++)?|\.[0-9]++)(?:\s+|$))?(.*)")
_GROUPS = ("percent", "fraction", "done", "total", "text")
# What a line's groups are read with can be slow for a pattern of bad will; after this it is given up for the attempt.
_READING_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class CommandOutput:
    """What is read of a command's outputs; see `command_operation` for each."""

    max_output_bytes: int = 16 * 1024 * 1024
    read_as: OutputForm = "auto"
    progress: str | None = None


class Report(NamedTuple):
    """One report of progress, as for `TaskContext.progress`."""

    fraction: float | None
    message: str | None


class ProgressPattern:
    """Finds progress in a line by the named groups of a regular expression.

    `percent` is a number from 0 to 100, `fraction` one from 0 to 1; `done` and `total` are numbers or times
    (`00:01:30.5`), where a `total` may stand on an earlier line; `text` is the message.
    """

    def __init__(self, pattern: str, *, place: str) -> None:
        """Compile it.

        Raises:
            ConfigurationError: It is no pattern of the linear engine's (`raincheck.operations.patterns`), or its
                groups say no progress.
        """
        import regex

        try:
            self.found = matcher(pattern)
            self._compiled: Any = regex.compile(pattern)
        except (PatternRefused, regex.error) as error:
            raise ConfigurationError(f"{place}: '{pattern[:70]}' is no regular expression: {error}") from None
        named = set(self._compiled.groupindex)
        counted = named & {"percent", "fraction", "done"}
        if not named or named - {*_GROUPS} or len(counted) > 1 or ("done" in named) != ("total" in named):
            raise ConfigurationError(
                f"{place}: '{pattern[:70]}' must name what it finds; allowed: one of (?P<percent>…), (?P<fraction>…), "
                "or (?P<done>…) with (?P<total>…); and (?P<text>…)"
            )

    def groups(self, line: str) -> dict[str, str | None]:
        """What the groups hold in a line in which the pattern is found.

        Raises:
            TimeoutError: That takes too long.
        """
        match = self._compiled.search(line, timeout=_READING_SECONDS)
        return {} if match is None else match.groupdict()


class StderrLines:
    """One run's stderr: takes it in as it comes, and keeps what is no progress. A `\\r` ends a line as a `\\n` does."""

    def __init__(self, pattern: ProgressPattern | None, *, command: str) -> None:
        self._pattern = pattern
        self._command = command
        self._total: float | None = None
        self._head = bytearray()
        self._line = bytearray()
        self._tail = bytearray()
        self._after_progress = False

    def feed(self, chunk: bytes) -> Report | None:
        """The last report in what was read; of a line the first 4 KiB count."""
        report = None
        for piece in chunk.splitlines(keepends=True):
            whole = piece[-1] in b"\r\n"
            if whole and not self._head:
                report = self._took(piece[:_LINE_BYTES], piece) or report
                continue
            self._head += piece[: _LINE_BYTES - len(self._head)]
            self._line += piece
            del self._line[:-_KEPT_BYTES]
            if whole:
                report = self._end_line() or report
        return report

    def tail(self) -> str:
        """The last 4 KiB of what is no progress, once all is read."""
        self._end_line()
        told = redact(self._tail.decode("utf-8", "replace")).encode()
        first = _TAIL_BYTES if len(self._tail) >= _KEPT_BYTES else 0
        return told[max(first, len(told) - _TAIL_BYTES) :].decode("utf-8", "replace")

    def _end_line(self) -> Report | None:
        head, line = bytes(self._head), bytes(self._line)
        self._head.clear()
        self._line.clear()
        return self._took(head, line)

    def _took(self, head: bytes, line: bytes) -> Report | None:
        head = head.rstrip(b"\r\n")
        # The \n of a \r\n, and the empty lines that programs draw around their progress.
        if not head and self._after_progress:
            return None
        report = self._report(head)
        self._after_progress = report is not None
        if report is None:
            if len(line) >= _KEPT_BYTES:
                self._tail.clear()
            self._tail += line
            if len(self._tail) > 2 * _KEPT_BYTES:
                del self._tail[:-_KEPT_BYTES]
        return report

    def _report(self, line: bytes) -> Report | None:
        if own := _OWN_LINE.match(line):
            fraction, message = own.groups()
            return Report(float(fraction) if fraction else None, message.decode("utf-8", "replace").strip() or None)
        text = line.decode("utf-8", "replace")
        if self._pattern is None or not self._pattern.found(text):
            return None
        try:
            groups = self._pattern.groups(text)
        except TimeoutError:
            _logger.warning("%s: 'progress' is too slow a pattern for its stderr, and is not used again", self._command)
            self._pattern = None
            return None
        return self._report_of(groups)

    def _report_of(self, groups: dict[str, str | None]) -> Report | None:
        numbers = {name: _number(groups.get(name)) for name in _GROUPS[:-1]}
        self._total = numbers["total"] or self._total
        percent, fraction, done = numbers["percent"], numbers["fraction"], numbers["done"]
        if percent is not None:
            fraction = percent / 100
        elif done is not None and self._total:
            fraction = done / self._total
        message = (groups.get("text") or "").strip() or None
        return None if fraction is None and message is None else Report(fraction, message)


def _number(text: str | None) -> float | None:
    """A number, or a time such as `00:01:30.5` in seconds; None where it is neither."""
    seconds = 0.0
    try:
        for part in (text or "").strip().split(":"):
            seconds = seconds * 60 + float(part)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None
