"""The chat model behind the plan: the built-in planner, or any OpenAI-compatible server (vLLM)."""
