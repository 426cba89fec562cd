"""What the files of deploy/ say is what raincheck has: settings, flags, extras, paths, and patience enough."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import yaml
from deploy.files import (
    COMPOSE,
    DEPLOY,
    EXTRAS,
    FLEET,
    KUBERNETES,
    ROOT,
    UNIT,
    Container,
    compose_containers,
    dockerfile,
    exec_form,
    kubernetes_containers,
    manifests,
    unit,
)

from raincheck.cli.main import cli
from raincheck.config.loading import load_settings
from raincheck.config.settings import Settings
from raincheck.runtime.service import _STOP_SECONDS  # pyright: ignore[reportPrivateUsage]

CONTAINERS = [
    *(pytest.param(each, id=f"{file.name}:{each.name}") for file in COMPOSE for each, _ in compose_containers(file)),
    *(pytest.param(each, id=f"kubernetes:{each.name}") for each, _ in kubernetes_containers()),
]

# Of the service's own limit, and as much for the queue and the store to be let go of.
_END_SECONDS = 2 * _STOP_SECONDS


def given(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The command and what its flags say, as the command line itself reads them.

    Raises:
        click.UsageError: There is no such command, flag or choice.
    """
    found, rest = cli.get_command(click.Context(cli), arguments[0]), list(arguments[1:])
    name = arguments[0]
    while isinstance(found, click.Group):
        named = found.get_command(click.Context(found), rest[0]) if rest else None
        if named is None:
            # Without one, the group's own.
            found = found.get_command(click.Context(found), getattr(found, "default", ""))
        else:
            name, found, rest = f"{name} {rest[0]}", named, rest[1:]
    assert found is not None, f"there is no command {arguments[0]}"
    return name, found.make_context(found.name, rest).params


def settings_of(environment: Mapping[str, str]) -> Settings:
    return load_settings(FLEET / "raincheck.toml", environ=environment)


def test_there_is_something_to_test() -> None:
    assert {file.name for file in COMPOSE} == {"compose.yaml", "compose.redis.yaml"}
    assert len(CONTAINERS) == 8


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_flag_and_variable_exists_and_the_settings_load(container: Container) -> None:
    command, flags = given(container.arguments)
    assert command in ("serve", "worker", "store migrate")
    settings = settings_of(container.environment)
    assert settings.state.provider in ("postgres", "redis")
    if command == "serve":
        assert settings.execution.max_concurrency == 0
        assert flags["host"] == "0.0.0.0"
        assert settings.server.auth is not None
        assert container.environment["AGENT_TOKEN"]
    if command == "worker":
        assert settings.execution.max_concurrency > 0
        assert flags["health_port"] or settings.worker.health_port


@pytest.mark.parametrize("container", CONTAINERS)
def test_no_process_is_killed_while_it_drains(container: Container) -> None:
    command, flags = given(container.arguments)
    if command == "worker":
        drain = flags["drain_seconds"] or settings_of(container.environment).execution.drain_seconds
        assert drain + _END_SECONDS <= container.grace_seconds


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_an_image_has_the_extras_that_its_containers_need(file: Path) -> None:
    for container, extras in compose_containers(file):
        installed = set(extras.split(","))
        assert installed <= set(EXTRAS)
        settings = settings_of(container.environment)
        assert settings.state.provider in installed
        assert settings.execution.engine in installed | {"local"}
        assert "server" in installed or container.arguments[0] != "serve"


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_the_parts_of_a_compose_file_fit_together(file: Path) -> None:
    whole = yaml.safe_load(file.read_text(encoding="utf-8"))
    services: dict[str, Any] = whole["services"]
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            ends = how["condition"] == "service_completed_successfully"
            assert "healthcheck" in services[needed] or (ends and needed == "migrate")
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in whole["volumes"] or (DEPLOY / source).resolve() == FLEET or (DEPLOY / source).is_file()
        if "build" in service:
            assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert services["worker"]["deploy"]["replicas"] == 2
    for port in services["server"]["ports"]:
        assert port.startswith("127.0.0.1:")
    for container, _ in compose_containers(file):
        if container.arguments[0] == "store":
            continue
        # The image's check asks at this port.
        _, flags = given(container.arguments)
        own = flags["port"] if container.name == "server" else settings_of(container.environment).worker.health_port
        assert container.environment["HEALTH_PORT"] == str(own)


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_no_password_stands_in_a_command_line_and_nothing_of_ours_is_a_superuser(file: Path) -> None:
    services: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))["services"]
    for service in services.values():
        assert "$" not in str(service.get("command")) + str(service.get("healthcheck"))
    for container, _ in compose_containers(file):
        url = urlsplit(container.environment["RAINCHECK_STATE__URL"])
        assert url.username == ("raincheck_owner" if container.name == "migrate" else "raincheck")
        if url.scheme == "postgresql" and container.name != "migrate":
            assert container.environment["RAINCHECK_STATE__MIGRATE"] == "check"


# Kubernetes.


def test_the_config_map_holds_the_files_of_the_example() -> None:
    (config,) = [each for each in manifests() if each["kind"] == "ConfigMap"]
    assert config["data"] == {
        name: (FLEET / name).read_text(encoding="utf-8") for name in ("raincheck.toml", "reports.py")
    }


def test_the_config_map_loads(tmp_path: Path) -> None:
    (config,) = [each for each in manifests() if each["kind"] == "ConfigMap"]
    for name, text in config["data"].items():
        (tmp_path / name).write_text(text)
    settings = load_settings(tmp_path / "raincheck.toml", environ={"RAINCHECK_STATE__URL": "postgresql://db/x"})
    assert set(settings.operations) == {"report"}


def test_every_selector_selects_pods_and_every_probe_and_service_a_port() -> None:
    objects = manifests()
    deployments = {each["metadata"]["name"]: each for each in objects if each["kind"] == "Deployment"}
    pods = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in deployments.items()}
    jobs = [each["spec"]["template"]["metadata"]["labels"] for each in objects if each["kind"] == "Job"]
    policed = [each["spec"]["podSelector"]["matchLabels"] for each in objects if each["kind"] == "NetworkPolicy"]
    assert sorted(policed, key=str) == sorted([*pods.values(), *jobs], key=str), "every pod has its policy"
    for each in objects:
        spec = each.get("spec", {})
        if each["kind"] in ("Deployment", "PodDisruptionBudget"):
            assert spec["selector"]["matchLabels"] in pods.values()
        if each["kind"] == "Service":
            (name,) = [name for name, labels in pods.items() if labels == spec["selector"]]
            ports = {port["name"] for port in _container(deployments[name])["ports"]}
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        if each["kind"] == "NetworkPolicy":
            assert spec["podSelector"]["matchLabels"] in [*pods.values(), *jobs]
            assert spec["policyTypes"] == ["Ingress", "Egress"]
            for rule in spec["ingress"]:
                (port,) = rule["ports"]
                assert port["port"] in {
                    port["name"] for port in _container(deployments[each["metadata"]["name"]])["ports"]
                }
            (outside,) = [to["ipBlock"] for rule in spec["egress"] for to in rule["to"] if "ipBlock" in to] or [None]
            assert outside is None or "169.254.0.0/16" in outside["except"]
        if each["kind"] == "HorizontalPodAutoscaler":
            assert spec["scaleTargetRef"]["name"] in deployments
    for name, deployment in deployments.items():
        container = _container(deployment)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        _, flags = given(container["args"])
        for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            request = container[probe]["httpGet"]
            assert request["path"] == path
            assert ports[request["port"]] == (flags["port"] if name == "raincheck-server" else flags["health_port"])


def _container(deployment: Mapping[str, Any]) -> Any:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container


def test_pods_run_without_rights_and_mount_the_configuration() -> None:
    for each in manifests():
        if each["kind"] in ("Deployment", "Job"):
            pod = each["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["automountServiceAccountToken"] is False
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            assert volumes["office"]["configMap"]["name"] == "raincheck"
            for container in pod["containers"]:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
                mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
                assert mounts["office"] == "/office"
                assert set(mounts) == set(volumes)


def test_the_secret_that_is_asked_for_is_the_one_that_the_kustomization_tells_to_make() -> None:
    text = (KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8")
    told = set(re.findall(r"--from-literal=([a-z-]+)=", text))
    asked: set[str] = set()
    for _, container in kubernetes_containers():
        for entry in container["env"]:
            if "valueFrom" in entry:
                assert entry["valueFrom"]["secretKeyRef"]["name"] == "raincheck"
                asked.add(entry["valueFrom"]["secretKeyRef"]["key"])
    assert asked == told
    for resource in yaml.safe_load(text)["resources"]:
        assert (KUBERNETES / resource).is_file()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_builds_the_manifests() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {each["kind"] for each in yaml.safe_load_all(done.stdout)} == {
        *("ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service")
    }


# The image.


def test_the_image_runs_one_process_without_rights_and_without_a_shell() -> None:
    instructions = dockerfile()
    last = dict(instructions)
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert last["USER"] == "10001"
    assert exec_form(last["ENTRYPOINT"]) == ["raincheck"]
    command, flags = given(exec_form(last["CMD"]))
    assert (command, flags["host"], flags["transport"]) == ("serve", "0.0.0.0", "streamable-http")
    assert exec_form(last["HEALTHCHECK"])[0] == "python"
    assert not any(tool in rest for word, rest in instructions if word == "RUN" for tool in ("apt", "gcc", "curl"))
    users = [rest for word, rest in instructions if word == "RUN" and "useradd" in rest]
    assert users
    assert "--uid 10001" in users[0]


def test_the_image_is_built_from_files_that_are_there_and_extras_that_exist() -> None:
    instructions = dockerfile()
    for rest in (rest for word, rest in instructions if word == "COPY" and "--from" not in rest):
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    arguments = dict(rest.split("=", 1) for word, rest in instructions if word == "ARG")
    assert set(arguments["EXTRAS"].split(",")) <= set(EXTRAS)
    oldest = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert oldest is not None
    assert int(arguments["PYTHON"].split(".")[1]) >= int(oldest[1])
    assert "readme = " in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


# The unit.


def test_the_unit_starts_a_worker_and_waits_for_its_drain() -> None:
    settings = unit()
    program, *arguments = settings["ExecStart"][0].split()
    assert program.endswith("/raincheck")
    command, flags = given(arguments)
    assert command == "worker"
    assert flags["target"] == "/etc/raincheck/%i/raincheck.toml"
    drain = settings_of({"RAINCHECK_STATE__URL": "postgresql://db/x"}).execution.drain_seconds
    assert drain + _END_SECONDS <= float(settings["TimeoutStopSec"][0])
    assert settings["Type"] == ["notify"]
    assert settings["KillMode"] == ["mixed"]
    assert settings["Restart"] == ["always"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "raincheck"
    text = UNIT.read_text(encoding="utf-8").replace("/opt/raincheck/bin/raincheck", str(program))
    copy = tmp_path / "raincheck-worker@reports.service"
    copy.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert copy.name not in done.stderr, done.stderr


def test_what_the_image_is_built_from_is_enough_for_a_wheel(tmp_path: Path) -> None:
    context = tmp_path / "src"
    context.mkdir()
    for word, rest in dockerfile():
        if word == "COPY" and "--from" not in rest:
            *sources, target = rest.split()
            for source in sources:
                path = ROOT / source
                if path.is_dir():
                    shutil.copytree(path, context / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(path, context / target)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(tmp_path), str(context)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=170)
    (wheel,) = tmp_path.glob("raincheck-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        told = archive.read(metadata).decode()
        assert any(name.endswith("raincheck/runtime/worker_process.py") for name in archive.namelist())
    assert set(re.findall(r"^Provides-Extra: (\w+)$", told, re.MULTILINE)) == set(EXTRAS)
