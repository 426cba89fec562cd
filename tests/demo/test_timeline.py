"""What the demo prints can be read in a log as well as on a terminal."""

from __future__ import annotations

import io

import pytest

from raincheck.demo.timeline import Timeline


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_says_when_who_and_what() -> None:
    out, clock = io.StringIO(), Clock()
    show = Timeline(out, clock=clock)
    clock.now += 1.26
    show.say("agent", "asks", tone="bad")
    assert out.getvalue() == "   1.3 s  agent   asks\n"


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = Terminal()
    Timeline(coloured).say("agent", "asks", tone="bad")
    assert "\x1b[31;1m" in coloured.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    Timeline(plain).say("agent", "asks", tone="bad")
    assert "\x1b" not in plain.getvalue()


def test_bars_show_who_ran_when_and_are_plain_ascii() -> None:
    out, clock = io.StringIO(), Clock()
    show = Timeline(out, clock=clock)
    show.mark("report", ".")
    clock.now += 5
    show.mark("report", "=")
    clock.now += 5
    show.sign("report", "v")
    show.mark("report", " ")
    clock.now += 5
    show.draw()
    lines = out.getvalue().splitlines()
    (bar,) = [line for line in lines if line.startswith("  report ")]
    assert bar == f"  report {'.' * 20}{'=' * 20}v"
    assert lines[0].index("5s") == 9 + 20
    assert out.getvalue().isascii()
