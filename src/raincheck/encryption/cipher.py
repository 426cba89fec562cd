"""The payload cipher: AES-256-GCM under a key of the operator's, each payload bound to its own place.

A sealed text says which key it needs (the first half of `id:body` is the key's id), so that keys can be rotated: the
first key seals, all of them open. Every text has a key of its own, derived with HMAC-SHA256 from a random salt, so that
random nonces never wear a key out. The place it belongs to is authenticated with it (AES-GCM's associated data): a
sealed text that was moved to another task or field does not open.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
from collections.abc import Collection, Sequence

from raincheck.errors import StoreUnusable
from raincheck.ports.records import Record, RecordQuery, RecordStore

KEY_RECORDS = "seal-key"
"""The kind of the records that name the keys which payloads in a store may be sealed with."""

PLAIN_RECORDS = "seal-plain"
"""The kind of the record that says that plain payloads are refused, whatever the settings say."""

_PLAIN_REFUSED = "refused"

KEY_BYTES = 32
"""The length of a key: AES-256."""

_MOST_KEYS = 500
_SALT = 16
_NONCE = 12
_TAG = 16
_ID = 12
SEALED_BYTES = _ID + _SALT + _NONCE + _TAG
"""How much longer sealed bytes are: the key's id, salt, nonce, and the tag that authenticates."""

_INFO = b"raincheck sealing 1"
_MARK = b"raincheck fingerprint 1"


class CannotDecrypt(StoreUnusable):
    """A payload cannot be opened: its key is not among the keys, it was changed or moved, or it is not sealed."""


def new_key() -> str:
    """A fresh random key, as the environment variable is to hold it: 32 bytes in base64."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def read_key(text: str) -> bytes:
    """The key of a text that `new_key` gave.

    Raises:
        ValueError: It is no such text. The message does not repeat it.
    """
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key is {KEY_BYTES} random bytes in base64; `raincheck store new-key` makes one")
    return key


def place_of(*parts: str) -> str:
    """Where a sealed text belongs, in one text: two different lists of parts never give the same."""
    return json.dumps(parts)


def key_id(key: bytes) -> str:
    """What a key is called where it may be shown: tells nothing of the key."""
    return hashlib.sha256(b"raincheck key id 1" + key).hexdigest()[:12]


class PayloadCipher:
    """Seals with the first key, opens with any.

    Args:
        keys: At least one, each of `KEY_BYTES`.

    Attributes:
        ids: The keys' ids, the sealing one first.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {key_id(key): key for key in keys}
        self.ids = tuple(self._keys)

    def encrypt(self, text: str, place: str) -> str:
        """The text for that place only, sealed: ASCII, about a third longer."""
        body = self._encrypted(text.encode(errors="surrogatepass"), place)
        return f"{self.ids[0]}:{base64.b64encode(body).decode()}"

    def encrypt_bytes(self, data: bytes, place: str) -> bytes:
        """The bytes for that place only, sealed: `SEALED_BYTES` longer."""
        return self.ids[0].encode() + self._encrypted(data, place)

    def decrypt_bytes(self, sealed: bytes, place: str) -> bytes:
        """The bytes again.

        Raises:
            CannotDecrypt: As in `decrypt`.
        """
        return self._decrypted(sealed[:_ID].decode(errors="replace"), sealed[_ID:], place)

    def decrypt(self, sealed: str, place: str) -> str:
        """The text again.

        Raises:
            CannotDecrypt: Its key is missing, or it was changed or belongs elsewhere.
        """
        name, _, body = sealed.partition(":")
        try:
            raw = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        return self._decrypted(name, raw, place).decode(errors="surrogatepass")

    def _encrypted(self, data: bytes, place: str) -> bytes:
        salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
        cipher = _cipher(self._keys[self.ids[0]], salt)
        return salt + nonce + cipher.encrypt(nonce, data, place.encode(errors="surrogatepass"))

    def _decrypted(self, name: str, raw: bytes, place: str) -> bytes:
        from cryptography.exceptions import InvalidTag

        key = self._keys.get(name)
        if key is None:
            raise CannotDecrypt(
                f"A payload in the task store is sealed with the key {name[:12]!r}, which is not among 'keys' in "
                "[encryption]."
            )
        try:
            nonce, body = raw[_SALT : _SALT + _NONCE], raw[_SALT + _NONCE :]
            return _cipher(key, raw[:_SALT]).decrypt(nonce, body, place.encode(errors="surrogatepass"))
        except (InvalidTag, ValueError):
            raise CannotDecrypt(
                "A payload in the task store does not open: it was changed, or moved from another place."
            ) from None

    def marks(self, fingerprint: str) -> tuple[str, ...]:
        """The fingerprint under each key, the sealing one first: without a key no text can be tried on these."""
        return tuple(hmac.digest(key, _MARK + fingerprint.encode(), "sha256").hex() for key in self._keys.values())


async def keys_in_use(store: RecordStore) -> list[str]:
    """The ids of the keys that payloads in the store may be sealed with."""
    return [record.key for record in await store.records(RecordQuery(KEY_RECORDS, limit=_MOST_KEYS))]


async def check_keys(store: RecordStore, ids: Collection[str] = ()) -> None:
    """Check that a process with these keys, or none, can read every payload of an open store.

    Raises:
        StoreUnusable: Some may be sealed with another key: operations would be run with what cannot be read.
    """
    missing = sorted(set(await keys_in_use(store)) - set(ids))
    if missing:
        raise StoreUnusable(
            f"Payloads in the task store are sealed with the key {', '.join(missing)}, which is not among 'keys' in "
            "[encryption]: add it, or, where nothing sealed with it is wanted any more, forget it "
            "(`raincheck store keys --forget ID`)."
        )


async def closed_to_plain(store: RecordStore, cipher: PayloadCipher) -> bool:
    """Whether an open store was closed to plain payloads (`close_to_plain`) by a process with one of the keys."""
    record = await store.get_record(PLAIN_RECORDS, _PLAIN_REFUSED)
    if record is None or not isinstance(record.value, str):
        return False
    try:
        return cipher.decrypt(record.value, place_of(PLAIN_RECORDS)) == _PLAIN_REFUSED
    except CannotDecrypt:
        return False


async def close_to_plain(store: RecordStore, cipher: PayloadCipher) -> None:
    """Write down in the open store that it holds no plain payload any more: they are refused from the next start on."""
    value = cipher.encrypt(_PLAIN_REFUSED, place_of(PLAIN_RECORDS))
    there = await store.get_record(PLAIN_RECORDS, _PLAIN_REFUSED)
    version = 1 if there is None else there.version + 1
    await store.put_record(Record(kind=PLAIN_RECORDS, key=_PLAIN_REFUSED, value=value, version=version))


def _cipher(key: bytes, salt: bytes):
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(hmac.digest(key, _INFO + salt, "sha256"))
