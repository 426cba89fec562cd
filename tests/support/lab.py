"""A running service on a real store, with operations made of plain coroutines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from raincheck.engines.local import local_engine
from raincheck.operations.context import TaskContext
from raincheck.operations.operation import Operation, Policy
from raincheck.ports.blob_store import BlobStore
from raincheck.ports.engine import EngineFactory
from raincheck.ports.task_store import TaskStore
from raincheck.runtime.service import Service, ServiceSettings
from raincheck.stores.sqlite.store import SqliteStore

Body = Callable[[Mapping[str, Any], TaskContext], Awaitable[Any]]


class BodyExecutor:
    """An operation whose code is the test's own coroutine."""

    parameters_schema: Mapping[str, Any] = {"type": "object"}

    def __init__(self, body: Body) -> None:
        self._body = body

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return dict(arguments)

    async def run(self, arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return await self._body(arguments, context)


class Lab:
    """Operations by name, and services that run them on one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.operations: dict[str, Operation] = {}

    def operation(self, name: str, **policy: Any) -> Callable[[Body], Body]:
        def declare(body: Body) -> Body:
            self.operations[name] = Operation(
                operation_type=name, description=name, executor=BodyExecutor(body), policy=Policy(**policy)
            )
            return body

        return declare

    @asynccontextmanager
    async def service(
        self,
        *,
        store: TaskStore | None = None,
        engine: EngineFactory = local_engine,
        blobs: BlobStore | None = None,
        clock: Callable[[], datetime] | None = None,
        **settings: Any,
    ) -> AsyncGenerator[Service]:
        values: dict[str, Any] = {"lease_seconds": 1.0, "drain_seconds": 0.0, **settings}
        service = Service(
            store or SqliteStore(self.path),
            self.operations,
            ServiceSettings(**values),
            engine=engine,
            blobs=blobs,
            clock=clock,
        )
        await service.start()
        try:
            yield service
        finally:
            await service.stop()
