"""Functions by name: what is found, and what each mistake says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raincheck.errors import ConfigurationError
from raincheck.operations.python.loading import load_target


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    path, modules = list(sys.path), set(sys.modules)
    (tmp_path / "loading_reports.py").write_text(
        "number = 5\nclass Shop:\n    @staticmethod\n    def buy(): return 'bought'\ndef build(): return 'built'\n"
    )
    (tmp_path / "loading_broken.py").write_text("import no_such_library_anywhere\n")
    (tmp_path / "loading_wrong.py").write_text("def build(:\n")
    (tmp_path / "loading_raises.py").write_text("raise RuntimeError('two\\nlines')\n")
    (tmp_path / "loading_leaves.py").write_text("import sys; sys.exit(3)\n")
    (tmp_path / "loading_package").mkdir()
    (tmp_path / "loading_package" / "inner.py").write_text("def build(): return 'inner'\n")
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_function_is_found_beside_the_configuration_file(folder: Path) -> None:
    assert load_target("loading_reports:build", folder)() == "built"
    assert load_target("loading_reports:Shop.buy", folder)() == "bought"
    assert load_target("loading_package.inner:build", folder)() == "inner"
    assert load_target("json:dumps")([]) == "[]"
    assert sys.path.count(str(folder)) == 1


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("loading_reports", 'allowed: "module:function"'),
        ("loading_reports:", 'allowed: "module:function"'),
        ("loading_reports:build()", 'allowed: "module:function"'),
        ("..:build", "is no function's name"),
        ("loading_reprots:build", "there is no module 'loading_reprots' in "),
        ("loading_package.outer:build", "there is no module 'loading_package.outer' in "),
        ("loading_reports:biuld", "loading_reports has no 'biuld'; there is: build"),
        ("loading_reports:Shop.sell", "loading_reports has no 'sell'"),
        ("loading_reports:number", "is of type int; allowed: a function"),
        ("loading_broken:build", "it imports 'no_such_library_anywhere', which is not installed"),
        ("loading_wrong:build", "importing loading_wrong failed: SyntaxError"),
        ("loading_raises:build", "importing loading_raises failed: RuntimeError: two lines"),
        ("loading_leaves:build", "importing loading_leaves called sys.exit"),
    ],
)
def test_each_mistake_is_one_line_that_names_it(folder: Path, target: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_target(target, folder)
    assert told in caught.value.message
    assert f'target = "{target}"' in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n\n1 / 0\n", "ZeroDivisionError: division by zero (loading_place.py:3)"),
        ("x = 1\ny = (\n", "SyntaxError: '(' was never closed (loading_place.py:2)"),
        ("import json\njson.loads('{')\n", "(loading_place.py:2)"),
        ("import json\nimport no_such_library_anywhere\n", "which is not installed (loading_place.py:2)"),
        ("\nimport sys; sys.exit(3)\n", "called sys.exit (loading_place.py:2)"),
        ("import loading_package.deep\n", f"NameError: name 'x' is not defined ({Path('loading_package/deep.py')}:2)"),
        ("raise BaseException('all')\n", "BaseException: all (loading_place.py:1)"),
    ],
)
def test_an_import_that_fails_names_the_line_of_the_users_file(folder: Path, text: str, told: str) -> None:
    (folder / "loading_package" / "deep.py").write_text("\nx\n")
    (folder / "loading_place.py").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_target("loading_place:build", folder)
    assert caught.value.message.endswith(told)
