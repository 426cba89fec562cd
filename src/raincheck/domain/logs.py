"""Log lines: one line each, `key=value` after the message or as JSON, never a payload or a secret.

Messages and tracebacks hold what others chose: names, parameters, the texts of exceptions. Everything passes
`on_one_line` or `traceback_lines` before it is written: nothing in it can begin a line, steer a terminal or be of any
length.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

from raincheck.domain.redaction import REDACTED, redacted_texts, without
from raincheck.domain.traces import stack_of
from raincheck.domain.unicode_text import well_formed

LogForm = Literal["text", "json"]

TASKS: Final = "raincheck.tasks"
"""The logger of the lines that every task has."""

_FIELDS = ("task_ref", "operation", "worker_id", "attempt", "seconds", "code")
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
# Without one of these in it there is none of those: looking for them costs a tenth.
_MARKS_OF_SECRETS = ("://", "password=", "bearer ", "basic ", "whsec_")
# What most fields are, and needs no look.
_WORD = re.compile(r"(?!.*whsec_)[A-Za-z0-9_.:-]{1,100}", re.ASCII)


def printable(text: str) -> str:
    """The text with everything escaped that could begin a line, steer a terminal, turn the writing round or hide."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in well_formed(text))


def on_one_line(text: str, longest: int = LONGEST_LINE) -> str:
    """The text as it may stand in a log: on one line, at most `longest` characters of it, and without secrets."""
    # Cut first and last: what is cut away costs little, and escaping makes it longer. A cut secret is not known as one.
    told = _cut(without(text, redacted_texts()), longest)
    lower = told.lower()
    if any(mark in lower for mark in _MARKS_OF_SECRETS):
        told = _SECRET.sub(REDACTED, told)
    return _cut(printable(told), longest)


def traceback_lines(error: BaseException, indent: str = _INDENT) -> str:
    """The traceback as it may stand below a line of the log; where something is secret, without the exceptions' texts:
    they may show it in an unforeseen form."""
    lines = stack_of(error, texts=not redacted_texts()).split("\n")
    told = [indent + on_one_line(line) for line in lines]
    # What led to it stands at the beginning, what it was at the end.
    return _cut("\n".join(told), _LONGEST_TRACEBACK, between=f"\n{indent}")


def configure_logs(level: str, form: LogForm = "text", *, tasks: bool = True) -> None:
    """Send every log line of that level and above to stderr; the libraries below us speak from warnings on.

    Args:
        level: The least severe level.
        form: "text" for people, or "json": one object on each line.
        tasks: Whether each task that is accepted, started and ended has a line (`raincheck.tasks.task_log`).
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _Formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    logging.getLogger(TASKS).setLevel(logging.NOTSET if tasks else logging.WARNING)
    # No line tells these, and every record would find them out (the manual of `logging`, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    guard_logs()


def guard_logs() -> None:
    """Have whatever raincheck itself logs made safe before any handler has it, however the process logs. Idempotent."""
    ours = logging.getLogger("raincheck")
    if not any(isinstance(handler, _Guard) for handler in ours.handlers):
        # The first one: handlers are called in their order, and those of loggers above after it.
        ours.handlers.insert(0, _Guard())


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # `_name_the_task` has written the first two already, as they stand here.
        message, names = (record.msg, _FIELDS[2:]) if "plain" in record.__dict__ else (_message(record), _FIELDS)
        fields = "".join([f" {name}={_field(value)}" for name, value in _fields(record, names)])
        line = f"{_time(record)} {record.levelname.lower()} {printable(record.name)}: {message}{fields}"
        error = _error_of(record)
        return line if error is None else f"{line}\n{traceback_lines(error)}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": printable(record.name),
            "message": _message(record),
        }
        for name, value in _fields(record):
            told[name] = value if isinstance(value, int | float) else _known(value)
        if (error := _error_of(record)) is not None:
            told["traceback"] = traceback_lines(error, "")
        return json.dumps(told)


class _Guard(logging.Handler):
    """Writes nothing: it makes the record safe that the handlers after it will write."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "on_one_line", False):
            record.msg, record.args, record.on_one_line = on_one_line(record.getMessage()), (), True
        _name_the_task(record)
        error = _error_of(record)
        if error is None:
            record.exc_info = record.exc_text = None
        else:
            record.exc_text = traceback_lines(error)
        if logging.lastResort is not None and record.levelno >= logging.lastResort.level and not _others(record.name):
            # As without this handler: a process that set up no log still hears of warnings.
            logging.lastResort.handle(record)


def _name_the_task(record: logging.LogRecord) -> None:
    """Say in the message which task it is about: others' formatters show nothing else. Ours says it
    once, as JSON beside the `plain` message."""
    known = record.__dict__
    if "plain" not in known and (task_ref := known.get("task_ref")) and (operation := known.get("operation")):
        known["plain"] = record.msg
        record.msg = f"{record.msg} task_ref={_field(task_ref)} operation={_field(operation)}"


def _others(name: str) -> bool:
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(not isinstance(handler, _Guard) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def _error_of(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _time(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@functools.lru_cache(maxsize=1)
def _second(since_1970: int) -> str:
    return datetime.fromtimestamp(since_1970, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _message(record: logging.LogRecord) -> str:
    known = record.__dict__
    if "plain" in known:
        return known["plain"]
    return record.msg if "on_one_line" in known else on_one_line(record.getMessage())


def _fields(record: logging.LogRecord, names: Sequence[str] = _FIELDS) -> list[tuple[str, Any]]:
    known = record.__dict__
    return [(name, known[name]) for name in names if known.get(name) is not None]


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None and not redacted_texts()


def _known(value: Any) -> str:
    return value if _is_word(value) else on_one_line(str(value), _LONGEST_FIELD)


def _field(value: Any) -> str:
    if isinstance(value, int | float):
        return str(value)
    if _is_word(value):
        return value
    text = on_one_line(str(value), _LONGEST_FIELD)
    return text if not set(text) & set(" =\"'") else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _cut(text: str, longest: int, *, between: str = "") -> str:
    if len(text) <= longest:
        return text
    told = f" … {len(text) - longest} characters … "
    kept = (longest - len(told) - len(between)) // 2
    return f"{text[:kept]}{told}{between}{text[-kept:]}"
