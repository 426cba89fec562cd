"""Words that the code and the pages gave up for the field's own (docs/glossary.md): none comes back."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RETIRED = {
    r"Workshop": "TaskHost",
    r"Note(?=[(|\]])|NoteStore|put_note|get_note|KEY_NOTES": "Record",
    r"Room(?=[(|\]])": "PendingLimit",
    r"Leftovers|leftovers?|due_with|StopsOutside": "UpstreamCleanup",
    r"Book|Holder": "PermitLedger, PermitHolder",
    r"Desk|WebhookDesk": "PermitAllocator, TaskAdmin, DeliveryAdmin",
    r"Lane|lanes?": "StatementBatcher, Pipeline, TimelineRow",
    r"Sealer|SealedStore|SealedBlobs|sealer|seal_bytes|open_bytes|CannotOpen": "PayloadCipher, Encrypted…",
    r"WITHHELD|withholding|without_withheld|outcome_hidden|scrubbed": "redaction",
    r"put_away|result_forms": "offload, result_body",
    r"CallBack|TellingStore|Outbox": "CompleteExternally, TaskWriter",
    r"Deliverer|GuardedClient|OutgoingRules": "WebhookDispatcher, EgressClient, EgressPolicy",
    r"Ladder|HistoryKeeper": "BackoffLadder, HistoryStore",
    r"Pool|Sender|tend|_tending": "SlotPool, QueuePublisher, maintain",
    r"Guardian|guardians?|GUARDIAN": "OrphanReaper",
    r"Verdict|Follower|PollTable": "JobStatus, JobFollower, PollSettings",
    r"unpark|parked|outside_ended|wait_outside\w*": "suspend, resume, external_completed, await_external",
    r"told_to_stop|surely_held|patiently|nudge|see_through|in_request|\w+_for_ever": "stop_requested, verified_until …",
    r"errands?|workplace": "job, project",
    r"telling_nobody": "WithoutWebhooks",
}
WORDS = re.compile("|".join(rf"(?<![\w/])(?:{pattern})(?!\w)" for pattern in RETIRED))


def _sources() -> list[Path]:
    code = [path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".sql", ".lua")]
    pages = [path for path in (ROOT / "docs").glob("*.md") if path.name != "benchmarks.md"]
    return sorted([*code, *pages, ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


@pytest.mark.parametrize("path", _sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_retired_word_comes_back(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [f"{number}: {line.strip()}" for number, line in enumerate(lines, 1) if WORDS.search(line)]
    assert found == []


def test_a_retired_word_is_seen() -> None:
    assert all(
        WORDS.search(text) for text in ("class Desk:", "the guardian ends", "store.put_away(x)", "_look_for_ever()")
    )
    assert not WORDS.search("desktop, a leftover_count, SlotPool, tools/Pool")


PERSONS = re.compile(r"\b(?:nobody|somebody|whoever)\b", re.IGNORECASE)
"""A component is named by what it is. Messages and pages speak of people, and may."""


def _remarks(code: str) -> list[str]:
    """The comments and docstrings of a module."""
    tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    begins = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.NL, tokenize.ENCODING, tokenize.COMMENT)
    return [
        token.string
        for before, token in zip([None, *tokens], tokens, strict=False)
        if token.type == tokenize.COMMENT
        or (token.type == tokenize.STRING and token.string[:3] == '"""' and (before is None or before.type in begins))
    ]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_comments_and_docstrings_name_components_and_no_persons(path: Path) -> None:
    assert [each for each in _remarks(path.read_text(encoding="utf-8")) if PERSONS.search(each)] == []


def test_a_person_in_a_remark_is_seen() -> None:
    code = 'def f():\n    """Nobody asks."""\n    # whoever comes\n    raise ValueError("nobody could call")\n'
    assert [bool(PERSONS.search(each)) for each in _remarks(code)] == [True, True]
