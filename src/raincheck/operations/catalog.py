"""The catalog: the operations that a process has, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from raincheck.operations.operation import Operation

OperationCatalog: TypeAlias = Mapping[str, Operation]
"""A live view: an operation that is declared later is in it from then on."""


class WithoutWebhooks(OperationCatalog):
    """A catalog whose operations send no webhooks."""

    def __init__(self, operations: OperationCatalog) -> None:
        self._operations = operations

    def __getitem__(self, name: str) -> Operation:
        operation = self._operations[name]
        if operation.policy.webhook is None:
            return operation
        return replace(operation, policy=replace(operation.policy, webhook=None))

    def __iter__(self) -> Iterator[str]:
        return iter(self._operations)

    def __len__(self) -> int:
        return len(self._operations)
