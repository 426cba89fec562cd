"""The tools of the suite's multi-round-trip scenarios (SEP-2322): plain tools of the SDK beside raincheck's."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import InputRequiredResult

__all__ = ["add_input_tools"]


def _elicitation(message: str, name: str, kind: str = "string") -> dict[str, Any]:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def _sampling(text: str) -> dict[str, Any]:
    message = {"role": "user", "content": {"type": "text", "text": text}}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": 100}}


ROOTS: dict[str, Any] = {"method": "roots/list", "params": {}}


def _ask(requests: dict[str, Any], state: str | None = None) -> InputRequiredResult:
    asked = {"inputRequests": requests} | ({"requestState": state} if state else {})
    return InputRequiredResult.model_validate(asked)


def _given(ctx: Context[Any, Any], *keys: str) -> bool:
    return all(key in (ctx.input_responses or {}) for key in keys)


def add_input_tools(server: MCPServer[Any]) -> None:
    """Add them all."""
    _add_single_questions(server)
    _add_questions_with_state(server)


def _add_single_questions(server: MCPServer[Any]) -> None:
    @server.tool()
    def test_input_required_result_elicitation(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks the user's name."""
        if not _given(ctx, "user_name"):
            return _ask({"user_name": _elicitation("What is your name?", "name")})
        return "Hello!"

    @server.tool()
    def test_input_required_result_sampling(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks the client's model."""
        if not _given(ctx, "capital_question"):
            return _ask({"capital_question": _sampling("What is the capital of France?")})
        return "Thank you."

    @server.tool()
    def test_input_required_result_list_roots(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks for the roots."""
        return "Thank you." if _given(ctx, "client_roots") else _ask({"client_roots": ROOTS})

    @server.tool()
    def test_streaming_elicitation(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks without a request of its own on the stream."""
        return "Thank you." if _given(ctx, "go_on") else _ask({"go_on": _elicitation("Go on?", "ok", "boolean")})

    @server.tool()
    def test_input_required_result_capabilities(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks only what the client can answer."""
        capabilities = ctx.client_capabilities
        questions: dict[str, Any] = {}
        if capabilities is not None and capabilities.sampling is not None:
            questions["sampled"] = _sampling("Greet.")
        if capabilities is not None and capabilities.elicitation is not None:
            questions["elicited"] = _elicitation("Name?", "name")
        return _ask(questions) if questions and not _given(ctx, *questions) else "Thank you."


def _add_questions_with_state(server: MCPServer[Any]) -> None:
    confirm = {"confirm": _elicitation("Please confirm", "ok", "boolean")}

    @server.tool()
    def test_input_required_result_request_state(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks, with state."""
        if not _given(ctx, "confirm"):
            return _ask(confirm, "asked")
        return "state-ok" if ctx.request_state == "asked" else "the state is gone"

    @server.tool()
    def test_input_required_result_tampered_state(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks, with state that the SDK seals."""
        return "ok" if _given(ctx, "confirm") else _ask(confirm, "asked")

    @server.tool()
    def test_input_required_result_multiple_inputs(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks three things at once."""
        questions = {"user_name": _elicitation("Name?", "name"), "greeting": _sampling("Greet."), "client_roots": ROOTS}
        return "Thank you." if _given(ctx, *questions) else _ask(questions, "asked")

    @server.tool()
    def test_input_required_result_multi_round(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks twice."""
        if ctx.request_state is None:
            return _ask({"step1": _elicitation("Step 1: What is your name?", "name")}, "round 1")
        if ctx.request_state == "round 1":
            return _ask({"step2": _elicitation("Step 2: What is your favorite color?", "color")}, "round 2")
        return "Thank you."
