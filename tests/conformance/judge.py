"""What the suite's own JSON says, judged: which scenarios there are, and which of their checks did not pass."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ALLOWED", "EMPTY", "NOT_APPLICABLE", "Verdict", "judged", "listed", "results_in", "table"]

NOT_APPLICABLE: Mapping[str, str] = {
    "completion-complete": "raincheck completes no arguments",
    "input-required-result-non-tool-request": "asks for a prompt; raincheck has none",
    "logging-set-level": "raincheck sends no log messages to clients",
    "prompts-get-embedded-resource": "raincheck has no prompts",
    "prompts-get-simple": "raincheck has no prompts",
    "prompts-get-with-args": "raincheck has no prompts",
    "prompts-get-with-image": "raincheck has no prompts",
    "resources-read-binary": "raincheck has no resources",
    "resources-read-text": "raincheck has no resources",
    "resources-subscribe": "raincheck has no resources",
    "resources-templates-read": "raincheck has no resources",
    "resources-unsubscribe": "raincheck has no resources",
    "sep-2640-skills-directory": "another extension (skills)",
    "sep-2640-skills-enumeration": "another extension (skills)",
    "sep-2640-skills-manifest": "another extension (skills)",
    "tools-call-with-logging": "raincheck sends no log messages to clients",
}
"""The server scenarios that are not asked of raincheck, each with its reason (docs/conformance.md shows them)."""

ALLOWED: Mapping[tuple[str, str], str] = {}
"""Checks `(scenario, check id)` whose warning is right as it is, each with its reason. None at the moment."""

EMPTY: Mapping[str, str] = {
    "tasks-status-notifications": "the suite skips it whole until it is rewritten for subscriptions/listen",
}
"""Scenarios in which the suite checks nothing yet, each with its reason."""

_PASSED = frozenset({"SUCCESS", "INFO", "SKIPPED"})
_LINE = re.compile(r"^  - (\S+) \[(.+)\]$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One scenario's outcome.

    Attributes:
        scenario: Its name.
        version: The protocol version it ran with, "extension" for an extension's own.
        passed: How many checks passed; 0 is a failure, for nothing was shown, but for those of `EMPTY`.
        problems: One line for each check that did not pass.
    """

    scenario: str
    version: str
    passed: int
    problems: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether something was checked (or is known not to be) and all of it passed."""
        return not self.problems and (self.passed > 0 or self.scenario in EMPTY)


def listed(text: str) -> dict[str, tuple[str, ...]]:
    """The server scenarios in the output of `conformance list --server`: name -> versions."""
    return {name: tuple(versions.split(",")) for name, versions in _LINE.findall(text)}


def judged(scenario: str, version: str, checks: Iterable[Mapping[str, str]]) -> Verdict:
    """The verdict on a scenario's checks; a warning counts as a failure."""
    passed, problems = 0, list[str]()
    for check in checks:
        if check["status"] in _PASSED:
            passed += check["status"] == "SUCCESS"
        elif not (check["status"] == "WARNING" and (scenario, check["id"]) in ALLOWED):
            problems.append(f"{check['status']} {check['id']}: {check.get('errorMessage') or check.get('description')}")
    return Verdict(scenario=scenario, version=version, passed=passed, problems=tuple(problems))


def results_in(folder: Path, version: str, scenarios: Iterable[str]) -> list[Verdict]:
    """The verdicts on these scenarios, whose results the suite wrote to a folder; one without results has failed."""
    verdicts: list[Verdict] = []
    for scenario in scenarios:
        # The suite names each result's folder after the scenario and the time.
        written = sorted(folder.glob(f"server-{scenario}-[0-9][0-9][0-9][0-9]-*T*/checks.json"))
        if written:
            verdicts.append(judged(scenario, version, json.loads(written[-1].read_text())))
        else:
            verdicts.append(Verdict(scenario=scenario, version=version, passed=0, problems=("it gave no result",)))
    return verdicts


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts for people."""
    width = max(len(verdict.scenario) for verdict in verdicts)
    lines: list[str] = []
    for verdict in verdicts:
        word = "ok  " if verdict.good else "FAIL"
        lines.append(f"{word}  {verdict.scenario:{width}}  {verdict.version:10}  {verdict.passed:3} checks passed")
        lines += [f"      {problem}" for problem in verdict.problems]
    bad = sum(not verdict.good for verdict in verdicts)
    lines.append(
        f"{len(verdicts)} scenarios, {sum(v.passed for v in verdicts)} checks passed, {bad} scenarios failed; "
        f"not applicable: {len(NOT_APPLICABLE)} (docs/conformance.md)"
    )
    return "\n".join(lines)
