"""Run the official conformance suite against the fixture server (`make conformance`); the exit code is the verdict."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # started as a script, outside of pytest

from conformance.judge import NOT_APPLICABLE, Verdict, listed, results_in, table

HERE = Path(__file__).parent
TOOLS = HERE.parents[1] / ".tools" / "conformance"
VERSIONS = ("2026-07-28", "2025-11-25")
_START_SECONDS = 60
_SUITE_SECONDS = 300


def install() -> None:
    """Install the locked suite and its Node.js into `.tools`, unless it is there."""
    if (TOOLS / "node_modules/.bin/conformance").exists() and filecmp.cmp(
        HERE / "package-lock.json", TOOLS / "package-lock.json", shallow=False
    ):
        return
    TOOLS.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, TOOLS / name)
    print("conformance: installing the suite into .tools", flush=True)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--loglevel", "error"]
    done = subprocess.run(command, cwd=TOOLS, capture_output=True, text=True, check=False)
    if done.returncode:
        (TOOLS / "package-lock.json").unlink()
        sys.exit(f"conformance: npm ci failed:\n{done.stdout}{done.stderr}")


def suite(*arguments: str) -> str:
    """What the suite printed. Its exit code is not asked: its JSON is judged."""
    environment = {**os.environ, "PATH": f"{TOOLS / 'node_modules/.bin'}{os.pathsep}{os.environ['PATH']}"}
    command = ["conformance", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=_SUITE_SECONDS)
    return done.stdout


@contextmanager
def serving(folder: Path) -> Generator[str]:
    """The fixture server while the block runs; its URL."""
    printed, log = folder / "server.out", folder / "server.log"
    with printed.open("wb") as out, log.open("wb") as err:
        server = subprocess.Popen([sys.executable, str(HERE / "server.py"), "0"], stdout=out, stderr=err)
    try:
        until = time.monotonic() + _START_SECONDS
        while not printed.read_bytes().endswith(b"\n"):
            if server.poll() is not None or time.monotonic() > until:
                sys.exit(f"conformance: the server did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.05)
        yield printed.read_text().split()[-1]
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def verdicts(url: str, folder: Path) -> list[Verdict]:
    """Run every scenario that applies."""
    scenarios = listed(suite("list", "--server"))
    if unknown := sorted(set(NOT_APPLICABLE) - set(scenarios)):
        sys.exit(f"conformance: the suite has no scenario {', '.join(unknown)}")
    found: list[Verdict] = []
    for version in VERSIONS:
        out = folder / version
        suite("server", "--url", url, "--suite", "all", "--spec-version", version, "-o", str(out))
        wanted = [name for name, of in scenarios.items() if version in of and name not in NOT_APPLICABLE]
        found += results_in(out, version, wanted)
    for name, of in scenarios.items():
        if "extension" in of and name not in NOT_APPLICABLE:
            out = folder / "extension"
            suite("server", "--url", url, "--scenario", name, "-o", str(out))
            found += results_in(out, "extension", [name])
    return found


def main() -> int:
    if shutil.which("npm") is None:
        print("conformance: SKIPPED, npm is not installed", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    install()
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as url:
        found = verdicts(url, Path(name))
    if not found:
        sys.exit("conformance: the suite listed no scenario")
    print(table(found))
    return 0 if all(verdict.good for verdict in found) else 1


if __name__ == "__main__":
    sys.exit(main())
