"""What goes to a log: one line each, `key=value` after the message, never a payload or a secret.

Messages and tracebacks hold what others chose: names, parameters, the texts of exceptions. Everything passes
`on_one_line` or `traceback_lines` before it is written: nothing in it can begin a line, steer a terminal or be of any
length.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final

from raincheck.secrecy import WITHHELD, withheld, without
from raincheck.unicode_text import well_formed

__all__ = ["configure_logs", "guard_logs", "on_one_line", "printable", "traceback_lines"]

_FIELDS = ("task_ref", "operation", "worker_id")
_NOISY = ("mcp", "uvicorn", "httpx2", "httpcore2", "asyncio")

LONGEST_LINE: Final = 4000
_LONGEST_TRACEBACK = 16_000
_LONGEST_FIELD = 200
# Lines of a traceback do not look like those of the log.
_INDENT = "  | "

# Users and passwords in addresses, passwords in the connection strings of databases, tokens in headers, signing keys.
_SECRET = re.compile(
    r"(?<=://)[^\s/@'\"]{1,500}(?=@)"
    r"|(?<=\bpassword=)[^\s&'\"]{1,500}"
    r"|(?<=\bbearer )[\w.~+/=-]{8,4000}"
    r"|(?<=\bbasic )[\w.~+/=-]{8,4000}"
    r"|\bwhsec_[\w+/=-]{8,200}",
    re.IGNORECASE,
)


def printable(text: str) -> str:
    """The text with everything escaped that could begin a line, steer a terminal, turn the writing round or hide."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in well_formed(text))


def on_one_line(text: str, longest: int = LONGEST_LINE) -> str:
    """The text as it may stand in a log: on one line, at most `longest` characters of it, and without secrets."""
    # Cut first and last: what is cut away costs little, and escaping makes it longer. A cut secret is not known as one.
    told = _SECRET.sub(WITHHELD, _cut(without(text, withheld()), longest))
    return _cut(printable(told), longest)


def traceback_lines(error: BaseException) -> str:
    """The traceback as it may stand below a line of the log."""
    lines = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
    told = [_INDENT + on_one_line(line) for line in lines]
    # What led to it stands at the beginning, what it was at the end.
    return _cut("\n".join(told), _LONGEST_TRACEBACK, between=f"\n{_INDENT}")


def configure_logs(level: str) -> None:
    """Send every log line of that level and above to stderr; the libraries below us speak from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    guard_logs()


def guard_logs() -> None:
    """Have whatever raincheck itself logs made safe before any handler has it, however the process logs. Idempotent."""
    ours = logging.getLogger("raincheck")
    if not any(isinstance(handler, _Guard) for handler in ours.handlers):
        # The first one: handlers are called in their order, and those of loggers above after it.
        ours.handlers.insert(0, _Guard())


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        fields = "".join(
            f" {name}={_field(value)}" for name in _FIELDS if (value := getattr(record, name, None)) is not None
        )
        message = on_one_line(record.getMessage())
        line = f"{at} {record.levelname.lower()} {printable(record.name)}: {message}{fields}"
        error = _error_of(record)
        return line if error is None else f"{line}\n{traceback_lines(error)}"


class _Guard(logging.Handler):
    """Writes nothing: it makes the record safe that the handlers after it will write."""

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = on_one_line(record.getMessage()), ()
        error = _error_of(record)
        if error is None:
            record.exc_info = record.exc_text = None
        else:
            record.exc_text = traceback_lines(error)
        if logging.lastResort is not None and record.levelno >= logging.lastResort.level and not _others(record.name):
            # As without this handler: a process that set up no log still hears of warnings.
            logging.lastResort.handle(record)


def _others(name: str) -> bool:
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(not isinstance(handler, _Guard) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def _error_of(record: logging.LogRecord) -> BaseException | None:
    # A traceback may show what is secret in a form that nobody foresaw: where something is, there is none.
    return record.exc_info[1] if record.exc_info and not withheld() else None


def _field(value: Any) -> str:
    text = on_one_line(str(value), _LONGEST_FIELD)
    return text if not set(text) & set(" =\"'") else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _cut(text: str, longest: int, *, between: str = "") -> str:
    if len(text) <= longest:
        return text
    told = f" … {len(text) - longest} characters … "
    kept = (longest - len(told) - len(between)) // 2
    return f"{text[:kept]}{told}{between}{text[-kept:]}"
