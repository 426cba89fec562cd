"""TLS options for network stores and engines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """TLS beyond what an address itself says.

    Attributes:
        ca: A file with the certificates that the server's is checked against; the server's name is checked too.
        cert, key: This client's certificate and its key, both or neither.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
