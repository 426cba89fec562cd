"""The files of deploy/, read: compose files, Kubernetes manifests, the Dockerfile, the systemd unit."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

__all__ = [
    "COMPOSE",
    "DEPLOY",
    "EXTRAS",
    "FLEET",
    "KUBERNETES",
    "ROOT",
    "UNIT",
    "Container",
    "compose_containers",
    "dockerfile",
    "kubernetes_containers",
    "manifests",
    "unit",
]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FLEET = ROOT / "examples" / "fleet"
COMPOSE = tuple(sorted(DEPLOY.glob("compose*.yaml")))
KUBERNETES = DEPLOY / "kubernetes"
UNIT = DEPLOY / "systemd" / "raincheck-worker@.service"
EXTRAS: Mapping[str, Sequence[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]

SECRETS = {
    "state-url": "postgresql://raincheck:hunter2@db/raincheck",
    "state-owner-url": "postgresql://owner:hunter2@db/raincheck",
    "agent-token": "a-token-of-the-agent-0123456789",
}


class Container(NamedTuple):
    """One process of ours in a file: its arguments, its environment, and how long its end may take."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    grace_seconds: float
    image: str


def compose_containers(file: Path) -> Iterator[tuple[Container, str]]:
    """Ours, each with the extras of its image."""
    for name, service in yaml.safe_load(file.read_text(encoding="utf-8"))["services"].items():
        if "build" in service:
            # ${NAME:?why} is filled in from the person's own environment.
            environment = {
                key: re.sub(r"\$\{\w+(:\?[^}]*)?\}", "hunter2", value) for key, value in service["environment"].items()
            }
            grace = re.fullmatch(r"(\d+)s", service.get("stop_grace_period", "10s"))
            assert grace is not None
            yield (
                Container(name, service["command"], environment, float(grace[1]), service["image"]),
                service["build"]["args"]["EXTRAS"],
            )


def manifests() -> list[dict[str, Any]]:
    """Every object in deploy/kubernetes, but the kustomization."""
    files = [file for file in sorted(KUBERNETES.glob("*.yaml")) if file.name != "kustomization.yaml"]
    return [each for file in files for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


def kubernetes_containers() -> Iterator[tuple[Container, dict[str, Any]]]:
    """Ours, each with the specification of its container."""
    for each in manifests():
        if each["kind"] in ("Deployment", "Job"):
            pod = each["spec"]["template"]["spec"]
            for container in pod["containers"]:
                environment = {
                    entry["name"]: entry.get("value") or SECRETS[entry["valueFrom"]["secretKeyRef"]["key"]]
                    for entry in container["env"]
                }
                grace = float(pod.get("terminationGracePeriodSeconds", 30))
                name = each["metadata"]["name"]
                yield Container(name, container["args"], environment, grace, container["image"]), container


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions: the word and the rest, continuation lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def exec_form(text: str) -> list[str]:
    """The words of a command that no shell gets to see."""
    return json.loads(text[text.index("[") :])


def unit() -> dict[str, list[str]]:
    """The unit's settings, whatever their section."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found
