"""The one cleaning of text: what UTF-8 cannot hold is U+FFFD, all else is itself."""

from __future__ import annotations

import json
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import pytest

from raincheck.cli import output
from raincheck.domain.logs import on_one_line
from raincheck.domain.unicode_text import well_formed, well_formed_json
from raincheck.operations.python.subprocess_protocol import packed
from raincheck.webhooks.payload import body_of


class Odd(StrEnum):
    CAFE = "caf\udce9"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("caf\udce9", "caf\ufffd"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83dx é \ud83d", "\ufffdx é \ufffd"),
        ("\ufeffsnow ☃ clef 𝄞 \0", "\ufeffsnow ☃ clef 𝄞 \0"),
        ("", ""),
    ],
)
def test_a_lone_surrogate_is_a_replacement_character(text: str, clean: str) -> None:
    assert well_formed(text) == clean
    assert well_formed_json({text: [text, 1, None]}) == {clean: [clean, 1, None]}
    clean.encode()


def test_what_is_clean_is_itself() -> None:
    values: tuple[Any, ...] = ("text", "snow ☃", {"a": [1, 2.0, None, True, "ü"]}, [], MappingProxyType({"a": "b"}), 5)
    for value in values:
        assert well_formed_json(value) is value


@pytest.mark.parametrize(
    "value", [MappingProxyType({"a": MappingProxyType({"\udce9": 1})}), {"a": Odd.CAFE}, ([{"b": ("\ud800",)}],)]
)
def test_it_is_found_in_whatever_holds_it(value: Any) -> None:
    text = json.dumps(well_formed_json(value), ensure_ascii=False)
    assert "\ufffd" in text
    text.encode()


def test_every_exit_applies_it(capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"\udce9": ["caf\udce9"]}
    assert json.loads(body_of(odd)) == json.loads(packed(odd)[4:]) == {"\ufffd": ["caf\ufffd"]}
    assert on_one_line("caf\udce9\n") == "caf\ufffd\\n"
    assert output.clean("caf\udce9") == "caf\ufffd"
    output.document(odd)
    assert json.loads(capsys.readouterr().out) == {"\ufffd": ["caf\ufffd"]}
