"""The base of both drivers: the policy, and the callbacks that calls use where they are given none."""

from __future__ import annotations

from raincheck.client.models import InputCallback, ProgressCallback, SubmittedCallback, TaskHandle
from raincheck.client.policy import PollingPolicy
from raincheck.client.wait import settled


class Driver:
    """A driver. Arguments as of `TaskPoller` and `TasksExtension`."""

    def __init__(
        self,
        policy: PollingPolicy | None = None,
        *,
        on_progress: ProgressCallback | None = None,
        on_input: InputCallback | None = None,
        on_submitted: SubmittedCallback | None = None,
        whole_results: bool = True,
    ) -> None:
        self._policy = policy or PollingPolicy()
        self._on_progress = on_progress
        self._on_input = on_input
        self._on_submitted = on_submitted
        self._whole_results = whole_results

    async def _accepted(self, handle: TaskHandle, on_submitted: SubmittedCallback | None = None) -> None:
        submitted = on_submitted or self._on_submitted
        if submitted is not None:
            await settled(submitted(handle))
