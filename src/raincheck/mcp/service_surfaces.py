"""The surfaces of one started service, each with what it answers by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from raincheck.composition.adapters import make_poll_advisor
from raincheck.config.settings import Settings
from raincheck.mcp.surfaces.handle_answers import HandleAnswers
from raincheck.mcp.surfaces.handle_tools import HandleTools
from raincheck.mcp.surfaces.holds import Holds
from raincheck.mcp.surfaces.host_elicitation import HostElicitation
from raincheck.mcp.surfaces.task_handles import TaskHandles
from raincheck.mcp.surfaces.task_methods import TaskMethods
from raincheck.mcp.surfaces.typed_tools import TypedTools
from raincheck.mcp.wire.tool_use_ids import ToolUseIds
from raincheck.polling.inline_wait import InlineWaits
from raincheck.polling.patience import Patience
from raincheck.runtime.service import Service


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceSurfaces:
    """What answers requests while a service runs.

    Attributes:
        service: The service.
        handles: Makes the tasks of the task protocols.
        elicitation: Has users asked; it is closed before the service stops.
        handle_tools, typed_tools, task_methods: The surfaces.
    """

    service: Service
    handles: TaskHandles
    elicitation: HostElicitation
    handle_tools: HandleTools
    typed_tools: TypedTools
    task_methods: TaskMethods

    @classmethod
    def of(cls, service: Service, settings: Settings) -> Self:
        """The surfaces of that service, as the settings say."""
        polling, registry, results = settings.polling, service.registry, service.results
        patience = Patience(polling.patience, service.patience)
        holds = Holds(registry, patience, hold_seconds=polling.hold_seconds, max_hold_seconds=polling.max_hold_seconds)
        elicitation = HostElicitation(registry, holds, patience)
        advisor = make_poll_advisor(polling, service.history.known, service.clock)
        full = settings.server.detail == "full"
        answers = HandleAnswers(advisor, holds, elicitation, full=full, clock=service.clock)
        handles = TaskHandles(advisor, clock=service.clock)
        tool_uses = ToolUseIds(settings.server.tool_use_ids)
        waits = InlineWaits(service.history.known)
        return cls(
            service=service,
            handles=handles,
            elicitation=elicitation,
            handle_tools=HandleTools(registry, answers, holds, results, elicitation, tool_uses),
            typed_tools=TypedTools(registry, answers, handles, results, holds, waits, elicitation, tool_uses),
            task_methods=TaskMethods(registry, handles, holds, elicitation, hold_seconds=polling.hold_seconds),
        )
