"""Why an outgoing request came to nothing. Messages name the host, never the rest of the address.

The tree::

    OutgoingError
    ├── RequestRefused      the rules forbid it: nothing was sent
    ├── RequestFailed       it was tried: no answer, or none that is HTTP
    └── AnswerTooLarge      the answer's body is larger than is read
"""

from __future__ import annotations


class OutgoingError(Exception):
    """Base of them all.

    Attributes:
        message: One line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestRefused(OutgoingError):
    """The address is malformed, its host is not allowed, or it resolves to where no request may go."""


class RequestFailed(OutgoingError):
    """The host was not found, did not answer in time, has no valid certificate, hung up, or sent no usable answer.

    Attributes:
        timed_out: Whether a time limit passed.
        retryable: Whether the same request may succeed later.
        status: The answer's status, where that is the reason.
    """

    def __init__(
        self, message: str, *, timed_out: bool = False, retryable: bool = False, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.timed_out = timed_out
        self.retryable = retryable
        self.status = status


class AnswerTooLarge(OutgoingError):
    """The body is larger than the client reads.

    Attributes:
        limit: How many bytes it reads.
    """

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message)
        self.limit = limit
