"""What a served model's server can do; the agent asks in no other way."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Able:
    """Found by `consilium llm probe`, or assumed of a server that couldn't be asked."""

    tools: bool = True
    """It takes tools and gives calls back (vLLM with a tool parser). False: plans are asked for under a JSON schema."""
    schema: bool = True
    """It holds a reply to a JSON schema. False: the schema is told in words, and what doesn't fit is asked for once more."""
    images: int = 0
    """Most pictures in one request; 0: it takes none, and `look` isn't offered."""
    context: int | None = None
    """Tokens of prompt and reply together; None: unknown."""
