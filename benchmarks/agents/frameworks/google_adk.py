"""Driver of Google ADK: an `LlmAgent` with an `McpToolset`, its model by LiteLLM. Order and answer: driving.py."""

from __future__ import annotations

from driving import INSTRUCTIONS, KEY, MODEL, Order, drive


async def answer(order: Order) -> str:
    from google.adk.agents import LlmAgent, RunConfig
    from google.adk.models.lite_llm import LiteLlm
    from google.adk.runners import InMemoryRunner
    from google.adk.tools.mcp_tool import McpToolset, StdioConnectionParams, StreamableHTTPConnectionParams
    from google.genai import types
    from mcp import StdioServerParameters

    if order.url:
        connection = StreamableHTTPConnectionParams(url=order.url)
    else:
        command, *arguments = order.command
        server = StdioServerParameters(command=command, args=arguments, env=order.env)
        connection = StdioConnectionParams(server_params=server)
    # LiteLLM's name for the API is a part of the model's name.
    api = "openai/responses/" if order.wire == "responses" else "openai/"
    model = LiteLlm(model=api + MODEL, api_base=order.api, api_key=KEY)
    toolset = McpToolset(connection_params=connection)
    runner = InMemoryRunner(
        agent=LlmAgent(name="agent", model=model, instruction=INSTRUCTIONS, tools=[toolset]), app_name="app"
    )
    session = await runner.session_service.create_session(app_name="app", user_id="user")
    said = ""
    try:
        async for event in runner.run_async(
            user_id="user",
            session_id=session.id,
            new_message=types.Content(role="user", parts=[types.Part(text=order.prompt)]),
            run_config=RunConfig(max_llm_calls=order.max_turns),
        ):
            if event.error_message:
                raise RuntimeError(event.error_message)
            if event.is_final_response() and event.content:
                said = "".join(part.text or "" for part in event.content.parts or [])
    finally:
        await runner.close()
    return said


if __name__ == "__main__":
    drive(answer, "google-adk", "litellm", "mcp")
