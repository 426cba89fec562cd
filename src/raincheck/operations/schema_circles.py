"""References of a schema that lead back to where they stand, without a step into the value: no check of them ends."""

from __future__ import annotations

from typing import Any, cast

_SAME_VALUE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas")


class SchemaSteps:
    """Which parts of a schema look at the same value as the part that they stand in, or that refers to them."""

    def __init__(self) -> None:
        self._next: dict[int, list[tuple[int, str]]] = {}

    def refer(self, part: dict[str, Any], referred: Any, reference: str) -> None:
        """`part` holds a reference to `referred`."""
        self._next.setdefault(id(part), []).append((id(referred), reference))

    def into(self, part: dict[str, Any]) -> None:
        """Record what of `part` is about the same value."""
        for key in _SAME_VALUE:
            held: Any = part.get(key)
            if key == "dependentSchemas" and isinstance(held, dict):
                held = list(cast("dict[str, Any]", held).values())
            inner = cast("list[Any]", held) if isinstance(held, list) else [held]
            self._next.setdefault(id(part), []).extend((id(each), "") for each in inner)

    def circle(self) -> str | None:
        """A reference that leads back to itself, if there is one."""
        done: set[int] = set()
        for start in self._next:
            path: dict[int, str] = {}
            waiting: list[tuple[int, str, bool]] = [(start, "", False)]
            while waiting:
                part, reference, leaving = waiting.pop()
                if leaving:
                    del path[part]
                    done.add(part)
                elif part in path:
                    return reference or next(each for each in reversed(path.values()) if each)
                elif part not in done:
                    path[part] = reference
                    waiting.append((part, "", True))
                    waiting += [(each, name, False) for each, name in self._next.get(part, ())]
        return None
