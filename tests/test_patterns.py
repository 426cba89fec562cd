"""Every regular expression of the source takes linear time, whatever text it is given: none can hold the event loop.

Each is tried on texts made from its own parts: what leads to a repetition, the repetition over and over, an end that
does not fit. Time is the thread's own (not the machine's), and what counts is how it grows.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

sre: Any = importlib.import_module("re._constants")
parser: Any = importlib.import_module("re._parser")

SOURCE = Path(__file__).parents[1] / "src"
# In small steps at first: beyond its first slow text an exponential one would never come back.
SIZES = (16, 20, 24, 28, 36, 48, 64, 128, 1024, 16_384)
ENOUGH_SECONDS = 0.02
SEARCHING = {"search", "sub", "subn", "split", "findall", "finditer"}
METHODS = SEARCHING | {"match", "fullmatch"}
FROM_PLACES = {sre.AT: "", sre.ANY: "x", sre.NOT_LITERAL: "\x01"}


class Pattern(NamedTuple):
    place: str
    compiled: re.Pattern[Any]
    method: str


def patterns_of(path: Path) -> Iterator[Pattern]:
    text = path.read_text()
    module: Any = None
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr=called), args=[first, *_]):
                if not isinstance(first, ast.Constant) and module is None:
                    module = importlib.import_module(".".join(path.relative_to(SOURCE).with_suffix("").parts))
                names: dict[str, Any] = {"re": re, **(vars(module) if module else {})}
                if isinstance(first, ast.Name) and first.id not in names:
                    # A user's pattern, which a function was given.
                    continue
                made = ast.unparse(node) if called == "compile" else f"re.compile({ast.unparse(first)})"
                pattern = eval(made, names)
                direct = "search" if called in SEARCHING else called
                used = methods_of(node, text) if called == "compile" else {direct}
                for method in sorted(used):
                    yield Pattern(f"{path.relative_to(SOURCE)}:{node.lineno}", pattern, method)
            case _:
                pass


def methods_of(node: ast.Call, text: str) -> set[str]:
    """How the pattern of an assignment is used in its module; searching where that is not plain to see."""
    head = text.splitlines()[node.lineno - 1]
    name = re.match(r"([A-Z_]+)(?::[^=]+)? = re\.compile", head)
    used = set(re.findall(rf"\b{name[1]}\.(\w+)\(", text)) & METHODS if name else set[str]()
    return {"search" if each in SEARCHING else each for each in used} or {"search"}


def sample(tree: Sequence[Any], after: int = 0) -> str:
    """A text that fits, and as short as may be; the last choice of the `after`th kind."""
    return "".join(_sample(op, argument, after) for op, argument in tree)


def _sample(op: Any, argument: Any, after: int) -> str:
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        least, _, inner = argument
        return sample(inner, after) * max(least, after)
    if op is sre.SUBPATTERN:
        return sample(argument[-1], after)
    if op is sre.ATOMIC_GROUP:
        return sample(argument, after)
    if op is sre.BRANCH:
        return sample(argument[1][-1 if after else 0], after)
    if op is sre.LITERAL:
        return chr(argument)
    if op is sre.IN:
        return next(iter(chars(argument)), "\x01")
    return FROM_PLACES.get(op, "")


def chars(members: Sequence[Any]) -> list[str]:
    found: list[str] = []
    for op, argument in members:
        if op is sre.NEGATE:
            return ["x", " "]
        if op is sre.LITERAL:
            found.append(chr(argument))
        elif op is sre.RANGE:
            found.append(chr(argument[0]))
        elif op is sre.CATEGORY:
            found += {sre.CATEGORY_DIGIT: ["0"], sre.CATEGORY_SPACE: [" ", "\n"]}.get(argument, ["x"])
    return found


def repetitions(tree: Sequence[Any], before: str = "") -> Iterator[tuple[str, str]]:
    """For each repetition a text that leads to it, and one round of it."""
    for op, argument in tree:
        parts: list[Any] = []
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            parts = [argument[2]]
            if argument[1] > 16:
                for more in (0, 1):
                    yield before, sample(argument[2], more) or "x"
                for op_inner, members in argument[2]:
                    if op_inner is sre.IN:
                        yield from ((before, each) for each in chars(members))
        elif op is sre.SUBPATTERN:
            parts = [argument[-1]]
        elif op is sre.ATOMIC_GROUP:
            parts = [argument]
        elif op is sre.BRANCH:
            parts = list(argument[1])
        for part in parts:
            yield from repetitions(part, before)
        before += _sample(op, argument, 1)


def attacks(pattern: re.Pattern[Any]) -> Iterator[Callable[[int], Any]]:
    """Texts of a size, each made to make the pattern try much."""
    is_bytes = isinstance(pattern.pattern, bytes)
    source = pattern.pattern.decode("latin-1") if is_bytes else pattern.pattern
    tree = parser.parse(source, pattern.flags & ~(re.UNICODE if is_bytes else 0))
    rounds = sorted({*repetitions(list(tree))})
    starts = sorted({before for before, _ in rounds} | {""})
    pumps = sorted({pump for _, pump in rounds})
    whole = {before + pump for before, pump in rounds} | {before for before in starts if before}
    combined = rounds if len(starts) * len(pumps) > 60 else list(itertools.product(starts, pumps))

    def text(before: str, pump: str, end: str) -> Callable[[int], Any]:
        def made(size: int) -> Any:
            full = before + pump * (size // len(pump)) + end
            return full.encode("utf-8", "surrogatepass") if is_bytes else full

        return made

    for before, pump in combined:
        for end in ("", "\x00", "!\n"):
            yield text(before, pump, end)
    if r"\\." in source:
        # What ends in the midst of an escape, after quotes that each may begin a text.
        yield text("", r"\"", "\\")
    for each in whole:
        yield text("", each, "\x00")


def seconds(pattern: re.Pattern[Any], method: str, text: Any) -> float:
    run: Any = getattr(pattern, "findall" if method == "search" else method)

    def once() -> float:
        began = time.thread_time()
        run(text)
        return time.thread_time() - began

    taken = once()
    return taken if taken < ENOUGH_SECONDS else min(taken, once())


def trouble(pattern: re.Pattern[Any], method: str) -> str | None:
    """A text for which the pattern takes more than linear time."""
    for attack in attacks(pattern):
        for size in SIZES:
            text = attack(size)
            taken = seconds(pattern, method, text)
            if taken < ENOUGH_SECONDS:
                continue
            # A linear one takes four times as long for four times the text.
            if taken > 8 * seconds(pattern, method, attack(size // 4)):
                return f"{pattern.pattern!r}.{method} takes {taken:.3f} s for {size} of {text[:60]!r}…"
    return None


PATTERNS = [each for path in sorted(SOURCE.rglob("*.py")) for each in patterns_of(path)]


def test_the_source_was_read() -> None:
    assert len(PATTERNS) > 60
    assert any("command/output.py" in each.place for each in PATTERNS)


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (rb"raincheck-progress:\s*(?:([0-9]*\.?[0-9]+)(?:\s+|$))?(.*)", "match"),
        (r"^(a+)+$", "match"),
        (r'role ".*" does not exist', "search"),
        (r"^\s*--.*\n", "search"),
        (r"\s+x", "search"),
        (r"(\d+)-(\d+)*z", "match"),
        (r'"(?:[^"\\]|\\.)*+(?:"|$)|[\[\]{}]', "search"),
    ],
)
def test_a_pattern_that_is_not_linear_is_found(pattern: str | bytes, method: str) -> None:
    flags = re.MULTILINE if pattern == r"^\s*--.*\n" else 0
    compiled: re.Pattern[Any] = re.compile(pattern, flags)
    assert trouble(compiled, method) is not None


def test_every_pattern_takes_linear_time() -> None:
    found = [f"{each.place}: {bad}" for each in PATTERNS if (bad := trouble(each.compiled, each.method))]
    assert found == []
