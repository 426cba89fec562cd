"""What is asked of DynamoDB to write: the parts of transactions, and the single conditional updates, as pure values.

A part of a transaction is `{"Put": {…}}`, `{"Update": {…}}` or `{"Delete": {…}}`. Where a condition fails, DynamoDB
says what it found instead (`ReturnValuesOnConditionCheckFailure`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raincheck.stores.dynamodb_items import KEY, TTL, Item, count_key, number, task_key, text, worker_text
from raincheck.task import TERMINAL, TaskStatus

__all__ = ["Changes", "counted", "delete_task", "hold", "let_go", "put_task", "renewal", "update_task"]

Changes = Mapping[str, Mapping[str, Any] | None]
"""Attributes to set, and (None) to take away."""


class _Expression:
    """The names and values of an expression: DynamoDB reserves many words, so none is written as it is."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._values: dict[str, Mapping[str, Any]] = {}

    def name(self, attribute: str) -> str:
        return self._names.setdefault(attribute, f"#n{len(self._names)}")

    def value(self, value: Mapping[str, Any]) -> str:
        placeholder = f":v{len(self._values)}"
        self._values[placeholder] = value
        return placeholder

    def equal(self, attribute: str, value: Mapping[str, Any]) -> str:
        return f"{self.name(attribute)} = {self.value(value)}"

    def absent(self, attribute: str) -> str:
        return f"attribute_not_exists({self.name(attribute)})"

    def change(self, changes: Changes) -> str:
        to_set = [self.equal(name, value) for name, value in changes.items() if value is not None]
        to_remove = [self.name(name) for name, value in changes.items() if value is None]
        removed = f" REMOVE {', '.join(to_remove)}" if to_remove else ""
        return f"SET {', '.join(to_set)}{removed}"

    def finish(self, table: str, *, condition: str | None = None, **members: Any) -> dict[str, Any]:
        request: dict[str, Any] = {"TableName": table, **members}
        request["ExpressionAttributeNames"] = {placeholder: name for name, placeholder in self._names.items()}
        if condition is not None:
            request |= {"ConditionExpression": condition, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        if self._values:
            request["ExpressionAttributeValues"] = self._values
        return request


def put_task(table: str, item: Item) -> dict[str, Any]:
    """A new task, where none of its ref is stored."""
    expression = _Expression()
    return {"Put": expression.finish(table, Item=item, condition=expression.absent(KEY))}


def update_task(
    table: str, task_ref: str, changes: Changes, *, version: int, status: TaskStatus, lease: int | None
) -> dict[str, Any]:
    """The next version of a task, where this version in this status is stored (and, not None, this lease)."""
    expression = _Expression()
    wanted = {"version": number(version), "status": text(str(status))}
    if lease is not None:
        wanted["lease_until"] = number(lease)
    return expression.finish(
        table,
        Key=task_key(task_ref),
        UpdateExpression=expression.change(changes),
        condition=" AND ".join(expression.equal(name, value) for name, value in wanted.items()),
    )


def delete_task(table: str, task_ref: str, version: int) -> dict[str, Any]:
    """Remove a task, where this version is stored."""
    expression = _Expression()
    condition = expression.equal("version", number(version))
    return {"Delete": expression.finish(table, Key=task_key(task_ref), condition=condition)}


def hold(table: str, holder: Item, task_ref: str, remove_at: int, *, instead_of: str | None) -> dict[str, Any]:
    """Give an idempotency key to a task, where nobody has it (or `instead_of` has it)."""
    expression = _Expression()
    condition = expression.absent(KEY)
    if instead_of is not None:
        condition += f" OR {expression.equal('task_ref', text(instead_of))}"
    item = {**holder, "task_ref": text(task_ref), TTL: number(remove_at)}
    return {"Put": expression.finish(table, Item=item, condition=condition)}


def let_go(table: str, holder: Item, task_ref: str) -> dict[str, Any]:
    """Free an idempotency key, where this task has it or nobody."""
    expression = _Expression()
    condition = f"{expression.absent(KEY)} OR {expression.equal('task_ref', text(task_ref))}"
    return {"Delete": expression.finish(table, Key=holder, condition=condition)}


def counted(table: str, changes: Mapping[tuple[int, TaskStatus], int]) -> list[dict[str, Any]]:
    """So many more tasks by (shard, status), an update a shard."""
    parts: list[dict[str, Any]] = []
    for shard in sorted({shard for shard, _ in changes}):
        expression = _Expression()
        added = [
            f"{expression.name(str(status))} {expression.value(number(change))}"
            for (of, status), change in changes.items()
            if of == shard and change
        ]
        if added:
            update = expression.finish(table, Key=count_key(shard), UpdateExpression=f"ADD {', '.join(added)}")
            parts.append({"Update": update})
    return parts


def renewal(task_ref: str, worker_id: str, fence: int, lease_until: int, *, to_deadline: bool) -> dict[str, Any]:
    """A longer lease, where this worker has the task with this fence. The task is due at the end of the lease, or at
    its deadline (`to_deadline`), whichever is earlier: one of the two renewals has its condition fulfilled."""
    expression = _Expression()
    until = expression.value(number(lease_until))
    lease, due, deadline = (expression.name(name) for name in ("lease_until", "agenda_at", "deadline_at"))
    status = expression.name("status")
    held = [
        expression.equal("worker", text(worker_text(worker_id))),
        expression.equal("fence", number(fence)),
        *(f"{status} <> {expression.value(text(str(each)))}" for each in sorted(TERMINAL)),
        f"{deadline} {'<' if to_deadline else '>='} {until}",
    ]
    request = expression.finish(
        "",
        Key=task_key(task_ref),
        UpdateExpression=f"SET {lease} = {until}, {due} = {deadline if to_deadline else until}",
        condition=" AND ".join(held),
    )
    del request["TableName"]
    return request
