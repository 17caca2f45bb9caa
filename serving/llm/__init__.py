"""The language model's server: profiles for vLLM, starting it, and trying what it can do."""
