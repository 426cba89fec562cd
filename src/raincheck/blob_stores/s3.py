"""A blob store on S3: objects of a bucket, on AWS or a compatible server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
from aiobotocore.config import AioConfig  # pyright: ignore[reportMissingTypeStubs]
from aiobotocore.session import AioSession  # pyright: ignore[reportMissingTypeStubs]
from botocore.exceptions import BotoCoreError, ClientError  # pyright: ignore[reportMissingTypeStubs]

from raincheck.errors import StoreError, StoreUnavailable, StoreUnusable
from raincheck.ports.blob_store import checked_key, expired_before, is_key

logger = logging.getLogger(__name__)

_CONNECTIONS = 10
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_NO_BUCKET = frozenset({"NoSuchBucket"})
_DENIED = frozenset({"403", "AccessDenied", "AllAccessDisabled", "Forbidden"})
_CREDENTIALS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"})
_FOREIGN = (BotoCoreError, ClientError, aiohttp.ClientError, OSError, TimeoutError)


class S3Blobs:
    """A `raincheck.ports.blob_store.BlobStore` in a bucket, which is there already. Credentials are those of the AWS
    environment.

    Args:
        bucket: The bucket.
        prefix: What the name of every object begins with.
        region: The AWS region; empty: as the AWS environment says.
        endpoint: The server's address; empty: AWS's own.
        timeout_seconds: How long a call may take.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "raincheck/",
        region: str = "",
        endpoint: str = "",
        timeout_seconds: float = 30.0,
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._region = region
        self._endpoint = endpoint
        self._timeout = timeout_seconds
        self._context: AbstractAsyncContextManager[Any] | None = None
        self._client: Any = None
        at = urlsplit(endpoint)
        self._place = f"The bucket {bucket}" + (f" at {at.scheme}://{at.netloc.rpartition('@')[2]}" if endpoint else "")

    async def open(self) -> None:
        """See `BlobStore.open`; a bucket that cannot be reached now may be later, one that is not there is an error."""
        config = AioConfig(
            connect_timeout=self._timeout,
            read_timeout=self._timeout,
            max_pool_connections=_CONNECTIONS,
            retries={"total_max_attempts": 3, "mode": "standard"},
            # Names with dots, and most servers that are not AWS's, know buckets in the path only.
            s3={"addressing_style": "path" if self._endpoint else "auto"},
        )
        try:
            self._context = cast(
                "AbstractAsyncContextManager[Any]",
                cast(Any, AioSession()).create_client(
                    "s3", config=config, region_name=self._region or None, endpoint_url=self._endpoint or None
                ),
            )
            self._client = await self._context.__aenter__()
        except (*_FOREIGN, ValueError) as error:
            self._context = None
            raise StoreUnusable(f"{self._place} cannot be used: {_words(error)}.") from error
        try:
            async with self._calls() as client:
                await client.head_bucket(Bucket=self._bucket)
        except StoreUnusable:
            await self.close()
            raise
        except StoreError as error:
            logger.warning("%s Large results stay in their tasks until it answers.", error.message)

    async def close(self) -> None:
        """See `BlobStore.close`."""
        context, self._context, self._client = self._context, None, None
        if context is not None:
            await context.__aexit__(None, None, None)

    async def put(self, key: str, body: bytes) -> None:
        """See `BlobStore.put`: S3 shows an object once it has the whole of it."""
        async with self._calls() as client:
            await client.put_object(
                Bucket=self._bucket, Key=self._name(key), Body=body, ContentType="application/octet-stream"
            )

    async def get(self, key: str, offset: int, length: int) -> bytes | None:
        """See `BlobStore.get`."""
        if length == 0:
            length = 1  # a range cannot be empty
        try:
            async with self._calls() as client:
                found = await client.get_object(
                    Bucket=self._bucket, Key=self._name(key), Range=f"bytes={offset}-{offset + length - 1}"
                )
                async with found["Body"] as body:
                    return await body.read()
        except _NotThere as error:
            return b"" if error.beyond_the_end else None

    async def remove(self, key: str) -> None:
        """See `BlobStore.remove`."""
        async with self._calls() as client:
            await client.delete_object(Bucket=self._bucket, Key=self._name(key))

    async def purge(self, now: datetime, limit: int) -> int:
        """See `BlobStore.purge`. A listing is in the order of names, so what has expired comes first."""
        before = expired_before(now)
        removed, more = 0, True
        async with self._calls() as client:
            after: dict[str, str] = {}
            while more and removed < limit:
                page = await client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, **after)
                names: list[str] = [found["Key"] for found in page.get("Contents", ())]
                for name in names:
                    key = name.removeprefix(self._prefix)
                    if not is_key(key):
                        continue  # another program's object
                    more = key < before and removed < limit
                    if not more:
                        break
                    # One by one: not every server knows DeleteObjects, or takes the checksum that AWS wants with it.
                    await client.delete_object(Bucket=self._bucket, Key=name)
                    removed += 1
                more = more and bool(page.get("IsTruncated"))
                after = {"StartAfter": names[-1]} if names else {}
        return removed

    def _name(self, key: str) -> str:
        return self._prefix + checked_key(key)

    @asynccontextmanager
    async def _calls(self) -> AsyncGenerator[Any]:
        if self._client is None:
            raise StoreUnavailable(f"{self._place} is not open.")
        try:
            async with asyncio.timeout(self._timeout * 3):
                yield self._client
        except _FOREIGN as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> Exception:
        code = _code(error)
        if code in _NO_BUCKET or (code == "404" and getattr(error, "operation_name", "") == "HeadBucket"):
            return StoreUnusable(f"{self._place} is not there: make it, or set 'bucket' in [results].")
        if code in _MISSING or code in ("416", "InvalidRange"):
            return _NotThere(beyond_the_end=code not in _MISSING)
        return StoreUnavailable(f"{self._place} cannot be used: {_words(error)}.")


class _NotThere(Exception):
    """There is no such object, or it is shorter."""

    def __init__(self, *, beyond_the_end: bool) -> None:
        super().__init__()
        self.beyond_the_end = beyond_the_end


def _code(error: Exception) -> str:
    if not isinstance(error, ClientError):
        return ""
    response = cast("dict[str, Any]", getattr(error, "response", {}))
    return str(response.get("Error", {}).get("Code", ""))


def _words(error: Exception) -> str:
    # Never the text of a foreign error: it may quote an address with a password, or what was sent.
    code = _code(error)
    if code in _DENIED:
        return "this AWS identity needs the rights s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on it"
    if code in _CREDENTIALS or type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return "the AWS environment has no credentials that it accepts"
    if type(error).__name__ == "NoRegionError":
        return "it needs a region: set 'region' in [results], or AWS_REGION"
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "it does not answer in time"
    if isinstance(error, ClientError):
        return f"it refuses ({code or 'no code'})"
    return f"it cannot be reached ({type(error).__name__})"
