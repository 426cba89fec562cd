"""Write expressions for DynamoDB: parts of transactions and single conditional updates, as pure values.

A part of a transaction is `{"Put": {…}}`, `{"Update": {…}}` or `{"Delete": {…}}`. Where a condition fails, DynamoDB
says what it found instead (`ReturnValuesOnConditionCheckFailure`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raincheck.domain.task import TERMINAL, TaskStatus
from raincheck.stores.dynamodb.items import (
    KEY,
    ROOMED,
    TTL,
    Item,
    key,
    number,
    ref_of,
    task_key,
    text,
    version_of,
    without_key,
    worker_text,
)

ENTERED = key("count#entered")
"""The key of the item that counts how often any task became pending, since room was first asked for."""

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

    def present(self, attribute: str) -> str:
        return f"attribute_exists({self.name(attribute)})"

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
    table: str,
    task_ref: str,
    changes: Changes,
    *,
    version: int,
    status: TaskStatus,
    lease: int | None,
    is_roomed: bool | None,
) -> dict[str, Any]:
    """The next version of a task, where this version in this status is stored (and, not None, this lease, and what its
    room knows of it)."""
    expression = _Expression()
    wanted = {"version": number(version), "status": text(str(status))}
    if lease is not None:
        wanted["lease_until"] = number(lease)
    conditions = [expression.equal(name, value) for name, value in wanted.items()]
    if is_roomed is not None:
        conditions.append(expression.present(ROOMED) if is_roomed else expression.absent(ROOMED))
    return expression.finish(
        table,
        Key=task_key(task_ref),
        UpdateExpression=expression.change(changes),
        condition=" AND ".join(conditions),
    )


def roomed(table: str, task_ref: str) -> dict[str, Any]:
    """A pending task is counted for its scope from now on, where it is pending and was not."""
    expression = _Expression()
    condition = f"{expression.equal('status', text(str(TaskStatus.PENDING)))} AND {expression.absent(ROOMED)}"
    update = expression.change({ROOMED: number(1)})
    return {"Update": expression.finish(table, Key=task_key(task_ref), UpdateExpression=update, condition=condition)}


def part_from_key(table: str, item: Item) -> dict[str, Any]:
    """A terminal task goes on without its idempotency key, where it is stored."""
    expression = _Expression()
    condition = expression.equal("version", number(version_of(item)))
    update = expression.change({"fixed": without_key(item)})
    request = expression.finish(table, Key=task_key(ref_of(item)), UpdateExpression=update, condition=condition)
    return {"Update": request}


def delete_task(table: str, task_ref: str, version: int) -> dict[str, Any]:
    """Remove a task, where this version is stored."""
    expression = _Expression()
    condition = expression.equal("version", number(version))
    return {"Delete": expression.finish(table, Key=task_key(task_ref), condition=condition)}


def hold(table: str, holder: Item, task_ref: str, remove_at: int, *, instead_of: str | None) -> dict[str, Any]:
    """Give an idempotency key to a task, where no task has it (or `instead_of` has it)."""
    expression = _Expression()
    condition = expression.absent(KEY)
    if instead_of is not None:
        condition += f" OR {expression.equal('task_ref', text(instead_of))}"
    item = {**holder, "task_ref": text(task_ref), TTL: number(remove_at)}
    return {"Put": expression.finish(table, Item=item, condition=condition)}


def let_go(table: str, holder: Item, task_ref: str) -> dict[str, Any]:
    """Free an idempotency key, where this task has it or none."""
    expression = _Expression()
    condition = f"{expression.absent(KEY)} OR {expression.equal('task_ref', text(task_ref))}"
    return {"Delete": expression.finish(table, Key=holder, condition=condition)}


def counted(table: str, counters: Item, changes: Mapping[str, int], *, with_room: bool | None) -> dict[str, Any]:
    """So many more tasks by status, in one of the counters; where room has been asked for, or not (None: either)."""
    expression = _Expression()
    added = [
        f"{expression.name(name)} {expression.value(number(change))}" for name, change in changes.items() if change
    ]
    condition = None
    if with_room is not None:
        condition = expression.present(ROOMED) if with_room else expression.absent(ROOMED)
    update = f"ADD {', '.join(added)}"
    return {"Update": expression.finish(table, Key=counters, UpdateExpression=update, condition=condition)}


def entered(table: str, number_of_tasks: int, below: int | None) -> dict[str, Any]:
    """So many tasks became pending, where so few ever did that this stays below."""
    expression = _Expression()
    name, condition = expression.name("entered"), None
    if below is not None:
        condition = f"{expression.absent('entered')} OR {name} < {expression.value(number(below))}"
    update = f"ADD {name} {expression.value(number(number_of_tasks))}"
    return {"Update": expression.finish(table, Key=ENTERED, UpdateExpression=update, condition=condition)}


def in_room(
    table: str, pending_limit: Item, change: int, *, remove_at: int | None = None, below: int | None = None
) -> dict[str, Any]:
    """So many more pending tasks of a scope, where there are fewer than that."""
    expression = _Expression()
    name, condition = expression.name("pending"), None
    if below is not None:
        condition = f"{expression.absent('pending')} OR {name} < {expression.value(number(below))}"
    update = f"ADD {name} {expression.value(number(change))}"
    if remove_at is not None:
        update = f"SET {expression.equal(TTL, number(remove_at))} {update}"
    return {"Update": expression.finish(table, Key=pending_limit, UpdateExpression=update, condition=condition)}


def update_record(table: str, record: Item, changes: Changes, *, version: int | None) -> dict[str, Any]:
    """The next version of a record, where this version is stored (0: none is); None: over whatever is stored."""
    expression = _Expression()
    changed, condition = dict(changes), None
    if version is None:
        name, zero, one = expression.name("version"), expression.value(number(0)), expression.value(number(1))
        counted_up = f"SET {name} = if_not_exists({name}, {zero}) + {one}, "
        update = counted_up + expression.change(changed).removeprefix("SET ")
    else:
        condition = expression.equal("version", number(version)) if version else expression.absent(KEY)
        update = expression.change({**changed, "version": number(version + 1)})
    return expression.finish(table, Key=record, UpdateExpression=update, condition=condition)


def delete_record(table: str, record: Item, version: int) -> dict[str, Any]:
    """Remove a record, where this version is stored."""
    expression = _Expression()
    return {"Delete": expression.finish(table, Key=record, condition=expression.equal("version", number(version)))}


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
