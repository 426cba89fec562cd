"""The pages about settings say what the settings are: a key that is missing there, or superfluous, fails here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from config.reference import MARKED, PAGE, rendered, tables

from raincheck.cli.main import main
from raincheck.config.loading import load_settings
from raincheck.config.sections.operations import OPERATION_MODELS
from raincheck.config.settings import NESTED_MODELS, OPERATION_TABLES, SECTION_MODELS

EXAMPLE = PAGE.parents[1] / "examples" / "raincheck.toml"
COMMENTED_OUT = {"server": {"version", "instructions", "auth", "public_url", "callback_secret"}}


def test_the_page_has_every_key_with_its_default_and_no_other() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert {found[2] for found in MARKED.finditer(page)} == set(tables())
    assert page == rendered(page), "run `python tests/config/reference.py`"


def test_every_key_has_a_meaning() -> None:
    groups = (SECTION_MODELS, NESTED_MODELS, OPERATION_MODELS, OPERATION_TABLES)
    for model in (model for group in groups for model in group.values()):
        for key, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{key}"


def test_the_example_has_every_key_and_the_defaults() -> None:
    example = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    for name, model in SECTION_MODELS.items():
        commented = COMMENTED_OUT.get(name, set())
        assert set(example[name]) == set(model.model_fields) - commented
        defaults = model().model_dump(mode="json")
        assert example[name] == {key: value for key, value in defaults.items() if key not in commented}
        for key in commented - {inner for _, inner in NESTED_MODELS}:
            assert f"\n# {key} = " in EXAMPLE.read_text(encoding="utf-8")
    for path, model in NESTED_MODELS.items():
        text = EXAMPLE.read_text(encoding="utf-8")
        inner = text.split(f"\n# [{'.'.join(path)}]", 1)[1].split("\n\n", 1)[0]
        assert set(re.findall(r"^# ([a-z_]+) = ", inner, re.MULTILINE)) == set(model.model_fields)
    used = {key for table in example["operations"].values() for key in table}
    assert used == {key for model in OPERATION_MODELS.values() for key in model.model_fields}
    for name, model in OPERATION_TABLES.items():
        inner_keys = {key for table in example["operations"].values() for key in table.get(name, {})}
        assert inner_keys == set(model.model_fields), name
    assert set(load_settings(EXAMPLE, environ={}).operations) == set(example["operations"])


def test_what_the_example_declares_can_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDER_TOKEN", "t")
    monkeypatch.setenv("RENDER_WEBHOOK_SECRET", "whsec_" + "cmFpbmNoZWNr" * 3)
    assert main(["check", str(EXAMPLE), "--state-url", str(tmp_path / "tasks.db")]) == 0


def test_the_blocks_of_the_page_are_valid(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in page.split("```toml\n")[1:]]
    assert blocks
    head = '[operations.resize]\nkind = "command"\nargv = ["resize"]\n'
    for block in blocks:
        file = tmp_path / "raincheck.toml"
        file.write_text(head + block)
        assert load_settings(file, environ={}).operations


def test_the_errors_on_the_page_are_the_errors_that_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text(encoding="utf-8")
    shown = [line for line in page.splitlines() if line.startswith("raincheck: ")]
    wrong = (
        '[operations.report]\nkind = "python"\ntarget = "a:b"\ntimout_seconds = 1',
        "[execution]\nmax_concurrency = -1",
    )
    for line, text in zip(shown, wrong, strict=True):
        Path("raincheck.toml").write_text(text)
        assert main(["check"]) == 2
        assert capsys.readouterr().err.startswith(line.removesuffix("…"))
