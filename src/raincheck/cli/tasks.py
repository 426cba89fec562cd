"""`raincheck tasks`: look after the tasks in a store, also while servers run on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from raincheck.cli.options import TargetGroup, config_option, duration, json_option, state_url_option
from raincheck.cli.output import document
from raincheck.cli.target import Target, target_with_store
from raincheck.errors import RaincheckError

if TYPE_CHECKING:
    from raincheck.cli.task_admin import TaskAdmin
    from raincheck.ports.task_store import TaskStore, TaskSummary

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])

_STATUSES = ("pending", "processing", "input_required", "completed", "failed", "cancelled")
# A task_ref may begin with a dash: it must not be taken for an option.
_REF_SETTINGS = {"ignore_unknown_options": True}
_LONGEST_LIST = 100_000


def _common(command: _F) -> _F:
    return json_option(config_option(state_url_option(command)))


@click.group(cls=TargetGroup, default="list")
def tasks() -> None:
    """List, show, cancel, retry and remove tasks.

    Works on the store of the configuration or of the Raincheck object, also while servers run on it; by default on the
    one store of the programs in this folder. Where a TASK_REF is asked for, its first characters do, as long as no
    other task begins with them. Without a COMMAND: list.

    \b
    Examples:
      raincheck tasks list --status failed
      raincheck tasks show 8Zr1x
      raincheck tasks office:rc list
      raincheck tasks list --json | jq '.[].task_ref'
    """


@tasks.command("list")
@click.option("--status", "statuses", multiple=True, type=click.Choice(_STATUSES), help="Only these; repeatable.")
@click.option("--operation", help="Only tasks of this operation.")
@click.option("--scope", help="Only tasks of this scope.")
@click.option("--limit", type=click.IntRange(1, _LONGEST_LIST), default=50, show_default=True, help="How many at most.")
@click.option("--follow", is_flag=True, help="Go on: show each change, until Ctrl-C.")
@_common
def list_(
    statuses: tuple[str, ...],
    operation: str | None,
    scope: str | None,
    limit: int,
    follow: bool,
    as_json: bool,
    config: str | None,
    state_url: str | None,
) -> None:
    """List tasks, newest first.

    With --follow first those that there are, oldest first, then a line for whatever becomes of one; with --json each
    line is a JSON document. Ctrl-C ends it.

    \b
    Examples:
      raincheck tasks list --status pending --status processing
      raincheck tasks list --follow
    """
    from raincheck.cli import task_views

    target = target_with_store(config, state_url)

    async def newest(admin: TaskAdmin) -> list[TaskSummary]:
        return await admin.newest(statuses=statuses, operation_type=operation, scope=scope, limit=limit)

    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            _with_admin(target, lambda admin: task_views.follow(lambda: newest(admin), as_json=as_json))
        return
    found = _with_admin(target, newest)
    if as_json:
        document([task_views.summary_json(summary) for summary in found])
    else:
        task_views.print_summaries(found, limit=limit)


@tasks.command(context_settings=_REF_SETTINGS)
@click.argument("task_ref")
@click.option("--full", is_flag=True, help="Arguments and result whole, however long.")
@_common
def show(task_ref: str, full: bool, as_json: bool, config: str | None, state_url: str | None) -> None:
    """Show all of one task: times, progress, arguments, result or error.

    \b
    Example:
      raincheck tasks show 8Zr1x --full
    """
    from raincheck.cli import task_views

    task = _with_admin(target_with_store(config, state_url), lambda admin: admin.find(task_ref))
    if as_json:
        document(task_views.task_json(task))
    else:
        task_views.print_task(task, full=full)


@tasks.command(context_settings=_REF_SETTINGS)
@click.argument("task_ref")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Write it to this file; without, to the terminal or the pipe.",
)
@config_option
@state_url_option
def result(task_ref: str, output: str | None, config: str | None, state_url: str | None) -> None:
    """Write the whole result of a task, however large: a text as it is, anything else as JSON.

    \b
    Example:
      raincheck tasks result 8Zr1x --output report.txt
    """
    found = _with_admin(target_with_store(config, state_url), lambda admin: admin.result(task_ref))
    if output in (None, "-"):
        with click.open_file("-", "wb") as stdout:
            stdout.write(found)
        return
    try:
        with open(output, "wb", opener=_private) as file:
            file.write(found)
    except OSError as error:
        raise RaincheckError(f"cannot write {output}: {error.strerror}") from None


@tasks.command(context_settings=_REF_SETTINGS)
@click.argument("task_ref")
@_common
def cancel(task_ref: str, as_json: bool, config: str | None, state_url: str | None) -> None:
    """Cancel a task: a server that runs it stops it. One that has ended stays as it is.

    \b
    Example:
      raincheck tasks cancel 8Zr1x
    """
    from raincheck.cli import task_views

    task, changed = _with_admin(target_with_store(config, state_url), lambda admin: admin.cancel(task_ref))
    if as_json:
        document(task_views.task_json(task))
    elif changed:
        click.echo(f"{task.task_ref} is cancelled")
    else:
        click.echo(f"{task.task_ref} had ended before: {task.status}")


@tasks.command(context_settings=_REF_SETTINGS)
@click.argument("task_ref")
@_common
def retry(task_ref: str, as_json: bool, config: str | None, state_url: str | None) -> None:
    """Run an ended task's work once more: a new task with its operation and arguments. Prints the new task_ref.

    A server on the same store takes it up, now or when it starts.

    \b
    Example:
      raincheck tasks retry 8Zr1x
    """
    from raincheck.cli import task_views

    task = _with_admin(target_with_store(config, state_url), lambda admin: admin.retry(task_ref))
    if as_json:
        document(task_views.task_json(task))
    else:
        click.echo(task.task_ref)


@tasks.command()
@click.option("--expired", is_flag=True, help="Remove ended tasks whose retention is over (the default).")
@click.option(
    "--settled-before", callback=duration, metavar="DURATION", help="Remove tasks that ended so long ago, as in 12h."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_common
def purge(
    expired: bool,
    settled_before: float | None,
    yes: bool,
    as_json: bool,
    config: str | None,
    state_url: str | None,
) -> None:
    """Remove ended tasks for good. Tasks that have not ended are never removed.

    Without options: those whose retention is over, which a running server also removes by itself.

    \b
    Example:
      raincheck tasks purge --settled-before 30d --yes
    """
    if expired and settled_before is not None:
        raise click.UsageError("--expired and --settled-before exclude each other")
    target = target_with_store(config, state_url)
    if settled_before is None:
        removed = _with_admin(target, lambda admin: admin.purge_expired())
    else:
        age = timedelta(seconds=settled_before)
        if not yes:
            number = _with_admin(target, lambda admin: admin.count_settled_before(age))
            click.confirm(f"Remove {number} ended tasks for good?", abort=True, err=True)
        removed = _with_admin(target, lambda admin: admin.purge_settled_before(age))
    if as_json:
        document({"removed": removed})
    else:
        click.echo(f"{removed} tasks removed")


def _private(path: str, flags: int) -> int:
    # A result is for its caller alone; a file that is there already keeps its mode.
    return os.open(path, flags, 0o600)


def _with_admin(target: Target, work: Callable[[TaskAdmin], Awaitable[_T]]) -> _T:
    from raincheck.cli.task_admin import TaskAdmin
    from raincheck.tasks.results import Results
    from raincheck.timing.clock import utc_now

    async def with_admin(store: TaskStore) -> _T:
        results = Results(store, target.new_blobs(store), clock=utc_now)
        try:
            await results.open()
            return await work(TaskAdmin(store, results))
        finally:
            await results.close()

    return at_store(target, with_admin)


def at_store(target: Target, work: Callable[[TaskStore], Awaitable[_T]]) -> _T:
    """What the work gives on the target's store, opened for it.

    Raises:
        RaincheckError: There is no such store, it cannot be opened, or the work failed.
    """
    from raincheck.encryption.cipher import check_keys

    target.refuse_memory("its tasks exist inside the server only")
    settings = target.settings
    if not target.store_is_given and settings.state.provider == "sqlite" and not os.path.exists(settings.database):
        raise RaincheckError(
            f"there is no task store at {settings.database}: no server of {settings.source} has run yet "
            "(--config and --state-url name others)"
        )

    async def run() -> _T:
        store = target.new_store()
        await store.open()
        try:
            await check_keys(store)
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())
