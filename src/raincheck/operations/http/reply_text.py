"""The text of an HTTP body, whatever its Content-Type says of the charset: all of it, or an error."""

from __future__ import annotations

import codecs
import functools

# The web's own. Python knows more, and some of those (punycode) take quadratic time, or hide text in ASCII (utf-7).
_CHARSETS = frozenset(
    {
        *("utf-8", "utf8", "utf-16", "utf-16le", "utf-16be", "us-ascii", "ascii", "latin1", "macintosh", "ibm866"),
        *(f"iso-8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16)),
        *(f"windows-125{part}" for part in range(9)),
        *("koi8-r", "koi8-u", "gb2312", "gbk", "gb18030", "big5", "euc-jp", "iso-2022-jp", "shift_jis", "euc-kr"),
    }
)
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_UTF_8 = "utf-8-sig"
_LONGEST_NAME = 40


class UnknownCharset(ValueError):
    """The body is not UTF-8, and its charset is none that is read; its text is the name."""


def text_of(body: bytes, content_type: str) -> str:
    """The body as text.

    A byte order mark says more than the header (WHATWG Encoding §6). A charset that is no charset ("undefined"), and
    several that contradict each other, say nothing: then it is UTF-8, or an error.

    Raises:
        UnicodeDecodeError: It is not text in its charset.
        UnknownCharset: It is in a charset that is not read.
    """
    marked = next((codec for mark, codec in _BOMS if body.startswith(mark)), None)
    if marked is not None:
        return body.decode(marked)
    named = _named(content_type)
    if len(named) != 1:
        return body.decode(_UTF_8)
    (charset,) = named
    if charset in _CHARSETS:
        return body.decode(charset)
    codec = _codec(charset)
    if codec in _codecs_of_the_web():
        return body.decode(codec)
    if codec not in ("", "undefined"):
        raise UnknownCharset(charset)
    try:
        return body.decode(_UTF_8)
    except UnicodeDecodeError:
        raise UnknownCharset(charset) from None


def _named(content_type: str) -> set[str]:
    parameters = (part.partition("=") for part in content_type.replace(",", ";").split(";")[1:])
    return {value.strip(" \"'").lower() for name, _, value in parameters if name.strip().lower() == "charset"} - {""}


def _codec(charset: str) -> str:
    """Python's name for it, empty where it has none."""
    if len(charset) > _LONGEST_NAME:
        return ""
    try:
        return codecs.lookup(charset).name
    except (LookupError, ValueError):
        return ""


@functools.cache
def _codecs_of_the_web() -> frozenset[str]:
    return frozenset(codecs.lookup(charset).name for charset in _CHARSETS)
