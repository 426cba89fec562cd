"""Where a run takes place: a store and an engine, the processes on them, and their folder."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.fleet import Fleet, Role
from chaos.ground import Ground

from support.history import History
from support.serving import Workplace

__all__ = ["LEASE", "Site", "roles_of", "standing"]

LEASE = 2.0
"""`lease_seconds`."""

_ROLES: Mapping[str, Role] = {
    "server-1": "server",
    "server-2": "server",
    "front": "front",
    "worker-1": "worker",
    "worker-2": "worker",
}
_ROLES_ON_ONE_FILE: Mapping[str, Role] = {"server": "server", "front": "front", "worker": "worker"}
_ROLES_WITH_A_QUEUE: Mapping[str, Role] = {**_ROLES, "server-2": "front"}

_TOML = """
[state]
provider = "{provider}"
pool_size = 2

[execution]
engine = "{engine}"
lease_seconds = {lease:g}
drain_seconds = 1
reconcile_seconds = 2
max_concurrency = 20
default_max_wait_seconds = 50000

[operations.fail]
kind = "python"
target = "ops:work"
on_worker_lost = "fail"

[operations.retry]
kind = "python"
target = "ops:work"
on_worker_lost = "retry"

[operations.steps]
kind = "python"
target = "ops:steps"
on_worker_lost = "retry"

[operations.thread]
kind = "python"
target = "ops:synchronous"
on_worker_lost = "retry"

[operations.isolated]
kind = "python"
target = "ops:synchronous"
isolation = "process"
on_worker_lost = "retry"

[operations.command]
kind = "command"
argv = ["{python}", "-S", "-E", "{command}", "{history}", "{{seconds}}"]
on_worker_lost = "retry"

[operations.command.parameters]
type = "object"
required = ["seconds"]
properties = {{ seconds = {{ type = "number" }}, how = {{ type = "string" }} }}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """What a run has to do with.

    Attributes:
        place: The folder; all that the processes left stays in it.
    """

    place: Workplace
    ground: Ground
    fleet: Fleet

    def history(self) -> History:
        """What the operations wrote up to now."""
        return History(self.place.history)

    async def stored(self) -> set[str]:
        """Every task that is in the store, as its operator sees it."""
        command = ("tasks", "list", "--json", "--limit", "100000")
        code, out, err = await self.place.raincheck(*command, env=self.ground.environment(self.ground.port))
        assert code == 0, err
        tasks: list[dict[str, Any]] = json.loads(out)
        return {task["task_ref"] for task in tasks}


def roles_of(ground: type[Ground]) -> Mapping[str, Role]:
    """The processes of a run on that ground."""
    if not ground.remote:
        return _ROLES_ON_ONE_FILE
    return _ROLES if ground.engine == "local" else _ROLES_WITH_A_QUEUE


@asynccontextmanager
async def standing(kind: type[Ground], folder: Path, roles: Mapping[str, Role]) -> AsyncGenerator[Site]:
    """The store and these processes, in an empty folder, while the block runs; it begins when all of them are up."""
    functions = Path(__file__).with_name("operations.py").read_text()
    toml = _TOML.format(
        provider=kind.provider,
        engine=kind.engine,
        lease=LEASE,
        python=sys.executable,
        command=Path(__file__).with_name("command.py"),
        history=folder / "history.jsonl",
    )
    place = Workplace(folder, toml, functions)
    ground = kind(folder)
    try:
        await ground.start()
        fleet = Fleet(place, ground, roles)
        async with fleet.running():
            yield Site(place=place, ground=ground, fleet=fleet)
    finally:
        await ground.close()
