"""Blobs as files in a folder: beside the SQLite store's file, or on a disk that all machines share.

One folder an hour of expiry, so that what has expired is found without looking at the rest. Files are their user's
alone, whole or not there: written under another name, synced, then renamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from datetime import datetime
from pathlib import Path

from raincheck.errors import StoreError, StoreUnavailable, StoreUnusable
from raincheck.ports.blob_store import checked_key, expired_before
from raincheck.stores.shared.private_files import check_folder

_HALF_WRITTEN = ".part"


class FileBlobs:
    """A `raincheck.ports.blob_store.BlobStore` in a folder.

    Args:
        folder: Made with the first blob.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)

    async def open(self) -> None:
        """See `BlobStore.open`."""
        try:
            if self._folder.exists() and not self._folder.is_dir():
                raise StoreUnusable(f"Large results cannot be kept in {self._folder}: it is not a folder.")
            check_folder(self._folder)
        except OSError as error:
            raise StoreUnusable(f"Large results cannot be kept in {self._folder}: {error.strerror}.") from error

    async def close(self) -> None:
        """See `BlobStore.close`."""

    async def put(self, key: str, body: bytes) -> None:
        """See `BlobStore.put`."""
        try:
            await asyncio.to_thread(self._write, self._path(key), body)
        except OSError as error:
            raise self._error(error) from error

    async def get(self, key: str, offset: int, length: int) -> bytes | None:
        """See `BlobStore.get`."""
        try:
            return await asyncio.to_thread(_read, self._path(key), offset, length)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error(error) from error

    async def remove(self, key: str) -> None:
        """See `BlobStore.remove`."""
        try:
            await asyncio.to_thread(self._path(key).unlink, missing_ok=True)
        except OSError as error:
            raise self._error(error) from error

    async def purge(self, now: datetime, limit: int) -> int:
        """See `BlobStore.purge`; what a killed writer left half written goes along."""
        try:
            return await asyncio.to_thread(self._purge, expired_before(now), limit)
        except OSError as error:
            raise self._error(error) from error

    def _path(self, key: str) -> Path:
        return self._folder / checked_key(key)[:10] / key

    def _write(self, path: Path, body: bytes) -> None:
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_HALF_WRITTEN}")
        for attempt in range(3):
            # Tasks hold what callers asked for: the folder is the user's alone.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                break
            except FileNotFoundError:
                # A purge of another process took the folder away in between.
                if attempt == 2:
                    raise
        else:
            raise AssertionError
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        for folder in (path.parent, self._folder):
            _sync(folder)

    def _purge(self, before: str, limit: int) -> int:
        removed = 0
        try:
            with os.scandir(self._folder) as entries:
                hours = sorted(entry.name for entry in entries if entry.name.isdigit())
        except FileNotFoundError:
            return 0
        for hour in (self._folder / name for name in hours if name < before):
            with contextlib.suppress(FileNotFoundError), os.scandir(hour) as entries:
                for entry in entries:
                    if removed == limit:
                        return removed
                    Path(entry.path).unlink(missing_ok=True)
                    removed += not entry.name.endswith(_HALF_WRITTEN)
            # It is not empty where another process writes to it at this moment; the next purge takes it.
            with contextlib.suppress(OSError):
                hour.rmdir()
        return removed

    def _error(self, error: OSError) -> StoreError:
        return StoreUnavailable(f"Large results cannot be kept in {self._folder}: {error.strerror or error}.")


def _read(path: Path, offset: int, length: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        file.seek(offset)
        return file.read(length)


def _sync(folder: Path) -> None:
    # A rename is durable once its folder is; some platforms have no such call.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
