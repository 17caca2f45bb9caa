"""Any OpenAI-compatible server (vLLM) as the planner."""

from langchain_core.language_models import BaseChatModel


def remote_planner(base_url: str, model: str, key: str | None, timeout_s: float) -> BaseChatModel:
    """A chat model on the server at `base_url`: temperature 0, two retries.

    Arguments of tool calls are checked by the tools, and the model is told what doesn't fit; a vLLM server holds them
    to their schema by itself when started with `--tool-strict-level parameter`.
    """
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(base_url=base_url, model=model, api_key=key or "none", timeout=timeout_s, max_retries=2, temperature=0)  # type: ignore[arg-type]
