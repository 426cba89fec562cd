"""A private DynamoDB: Amazon's own DynamoDB Local, a Java program that npm's `amplify-dynamodb-simulator` carries.

`python tests/support/servers/dynamodb.py` installs it into `.tools` (needs npm), unless it is there.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # started as a script, outside of pytest

from support.servers.server import Server

__all__ = ["CREDENTIALS", "DynamoDBServer", "install"]

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-central-1"}
"""What a client of it has in its environment; it takes anything."""

# Its own program listens on every address of the machine.
_PROGRAM = Path(__file__).with_name("LoopbackDynamoDB.java")
_FOLDER = Path(__file__).parents[3] / ".tools" / "dynamodb-local"
_PACKAGE = "amplify-dynamodb-simulator@2.9.30"
_DIGEST = "3503ffac19f183407909fecdacf4db51ab1fdad1da7b2f177016670b2d80e4b9"
_INSIDE = "package/emulator/"


def install() -> None:
    """Unpack DynamoDB Local into `.tools`, unless it is there."""
    if (_FOLDER / "DynamoDBLocal.jar").exists():
        return
    print("dynamodb: installing DynamoDB Local into .tools", flush=True)
    with tempfile.TemporaryDirectory(prefix="raincheck-dynamodb-") as temporary:
        command = ["npm", "pack", "--silent", "--pack-destination", temporary, _PACKAGE]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=temporary)
        (packed,) = Path(temporary).glob("*.tgz")
        digest = hashlib.sha256(packed.read_bytes()).hexdigest()
        if digest != _DIGEST:
            sys.exit(f"dynamodb: {_PACKAGE} is not the one that was looked at: its SHA-256 is {digest}")
        unpacked = Path(temporary) / "unpacked"
        with tarfile.open(packed) as archive:
            archive.extractall(unpacked, [each for each in archive if each.name.startswith(_INSIDE)], filter="data")
        _FOLDER.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(_FOLDER, ignore_errors=True)
        shutil.move(unpacked / _INSIDE, _FOLDER)


class DynamoDBServer(Server):
    """DynamoDB Local on loopback. What it holds is gone with its process (on disk, too, `kill` loses what it had
    acknowledged), so faults freeze it instead of killing it."""

    @staticmethod
    def missing() -> str | None:
        """Why there can be none here, or None."""
        if not (shutil.which("java") and shutil.which("javac")):
            return "a Java development kit (Debian: default-jdk-headless)"
        if not (_FOLDER / "DynamoDBLocal.jar").exists():
            return "DynamoDB Local (python tests/support/servers/dynamodb.py installs it)"
        return None

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """See `Server.start`."""
        libraries = _FOLDER / "DynamoDBLocal_lib"
        java = ["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", f"-Djava.library.path={libraries}"]
        java += ["-cp", f"{_FOLDER / 'DynamoDBLocal.jar'}:{libraries}/*", str(_PROGRAM)]
        options = ["-port", str(self.port), "-sharedDb", "-disableTelemetry", "-inMemory"]
        # It leaves a file where it is started.
        self._run([*java, *options], cwd=self.folder)
        self._wait(self._listens)


if __name__ == "__main__":
    install()
