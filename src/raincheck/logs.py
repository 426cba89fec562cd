"""Structured log lines on stderr: one line each, `key=value` after the message, never a payload or a secret."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

__all__ = ["configure_logs"]

_FIELDS = ("task_ref", "operation", "worker_id")
_NOISY = ("mcp", "uvicorn", "httpx2", "httpcore2", "asyncio")


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        fields = "".join(f" {name}={value}" for name in _FIELDS if (value := getattr(record, name, None)) is not None)
        line = f"{at} {record.levelname.lower()} {record.name}: {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure_logs(level: str) -> None:
    """Send every log line of that level and above to stderr; the libraries below us speak from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
