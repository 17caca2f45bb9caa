"""Any OpenAI-compatible server (vLLM) as the planner. Imported only where one is set."""

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from openai import APIError

from agent.errors import PlannerDown


class RemotePlanner(ChatOpenAI):
    """The client's errors leave as PlannerDown, without the request's text."""

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Strict: a server that can holds each call's arguments to the tool's schema (vLLM otherwise forces the envelope alone)."""
        bound = super().bind_tools(tools, **kwargs)
        for tool in bound.kwargs["tools"]:  # type: ignore[attr-defined]
            tool["function"]["strict"] = True
        return bound

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        try:
            return await super()._agenerate(messages, stop, run_manager, **kwargs)
        except APIError as error:
            what = f"the language model's server failed ({type(error).__name__})"
            raise PlannerDown(what, "check it with `consilium llm probe`, or start without --llm-url") from error


def remote_planner(base_url: str, model: str, key: str | None, timeout_s: float) -> RemotePlanner:
    """A chat model on the server at `base_url`: temperature 0, two retries.

    Arguments of tool calls are checked by the tools, and the model is told what doesn't fit; a vLLM server holds them
    to their schema by itself when started with `--tool-strict-level parameter`.
    """
    return RemotePlanner(base_url=base_url, model=model, api_key=key or "none", timeout=timeout_s, max_retries=2, temperature=0)  # type: ignore[arg-type]
