"""The answers of upstream APIs: values, refusals, and failures as operations report them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from raincheck.domain.redaction import redacted_texts, without
from raincheck.egress.client import LARGEST_REFUSAL, EgressClient, causes
from raincheck.egress.errors import AnswerTooLarge, RequestFailed
from raincheck.egress.retry_after import retry_after
from raincheck.errors import ResultTooLarge, UpstreamError
from raincheck.operations.exhaustion import what_is_exhausted
from raincheck.operations.http.reply_text import UnknownCharset, text_of
from raincheck.operations.http.request import PreparedRequest
from raincheck.operations.untrusted_json import BeyondBounds, NotJson, read_json
from raincheck.operations.validation_messages import capped

_BODY_TAIL_CHARS = 2048
_RETRYABLE = frozenset({408, 425, 429})
_LONGEST_RETRY_AFTER = 86400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer, read to its end.

    Attributes:
        host: Who answered, as messages name it.
        headers: By name in lower case.
    """

    host: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def value(self) -> Any:
        """The body: JSON where its type says so, else text; None where it is empty.

        Raises:
            UpstreamError: It is broken.
        """
        if not self.body:
            return None
        content_type = self.headers.get("content-type", "")
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type.endswith(("/json", "+json")):
            return self.document
        try:
            return text_of(self.body, content_type)
        except UnknownCharset as charset:
            raise UpstreamError(
                f"{self.host} answered in the charset {str(charset)[:40]!r}, which is not read"
            ) from None
        except UnicodeDecodeError:
            raise UpstreamError(
                f"{self.host} answered with {capped(media_type, 80) or 'something'} that is not text"
            ) from None

    @property
    def document(self) -> Any:
        """The body as JSON, whatever its type says.

        Raises:
            UpstreamError: It is broken.
        """
        try:
            try:
                return read_json(self.body)
            except BeyondBounds:
                raise
            except NotJson:
                # JSON is UTF-8 (RFC 8259 §8.1); what is not says so.
                return read_json(text_of(self.body, self.headers.get("content-type", "")))
        except BeyondBounds as error:
            raise UpstreamError(f"{self.host} answered with JSON that is not taken: {error}") from None
        except (NotJson, UnknownCharset, UnicodeDecodeError):
            raise UpstreamError(f"{self.host} answered with broken JSON") from None

    @property
    def retry_after(self) -> float | None:
        """How many seconds it asks to wait."""
        return seconds_to_wait(self.headers)

    def refusal(self, secrets: Collection[str] = ()) -> UpstreamError:
        """The failure that its status is, without those texts and what else the task withholds."""
        # An upstream may echo its request; cut first, what is left of a secret would not be found.
        hidden = {*secrets, *redacted_texts()}
        tail = without(self.body.decode("utf-8", "replace"), hidden, "***")
        if len(self.body) > LARGEST_REFUSAL and hidden:
            # Read no further, it may end within one.
            tail = tail[: -max(map(len, hidden))]
        details: dict[str, Any] = {"status": self.status, "body_tail": tail[-_BODY_TAIL_CHARS:]}
        if self.retry_after is not None:
            details["retry_after_seconds"] = self.retry_after
        return UpstreamError(
            f"{self.host} answered with status {self.status}",
            retryable=self.status in _RETRYABLE or self.status >= 500,
            details=details,
        )


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """What a Retry-After header says."""
    return retry_after(headers.get("retry-after"), longest=_LONGEST_RETRY_AFTER, now=datetime.now(UTC))


async def exchange(client: EgressClient, host: str, prepared: PreparedRequest, *, redirects: bool = True) -> Reply:
    """Send a request and read its answer.

    Args:
        client: Its connections.
        host: The server, as messages name it.
        prepared: The request.
        redirects: Whether those within the same origin are followed.

    Raises:
        UpstreamError: There was no answer, a part of one, or a redirect to nowhere or to another origin.
        ResultTooLarge: Its body is larger.
        RequestRefused: The client's policy forbids it.
    """
    try:
        answer = await client.request(
            prepared.method,
            prepared.url,
            headers=prepared.headers,
            content=prepared.content,
            redirects=redirects,
            name=host,
        )
    except AnswerTooLarge as error:
        raise ResultTooLarge(f"the answer of {host} is larger than {error.limit} bytes") from None
    except RequestFailed as error:
        if (what := next(filter(None, map(what_is_exhausted, causes(error))), None)) is not None:
            raise UpstreamError(f"{host} cannot be reached: this server has no {what} left", retryable=True) from None
        details = {} if error.status is None else {"status": error.status}
        raise UpstreamError(error.message, retryable=error.retryable, details=details) from None
    return Reply(host=host, status=answer.status, headers=answer.headers, body=answer.body)
