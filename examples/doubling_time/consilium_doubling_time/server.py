"""An MCP server on standard input and output."""

from typing import Annotated

from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations
from pydantic import Field

server = MCPServer("doubling_time")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def doubling(
    first_mm3: Annotated[float, Field(gt=0, description="Volume before, mm3", examples=[500.0])],
    last_mm3: Annotated[float, Field(gt=0, description="Volume after, mm3", examples=[800.0])],
    days: Annotated[float, Field(gt=0, description="Days between", examples=[90.0])],
) -> str:
    """Volume doubling time of a nodule from two volumes."""
    from math import log2

    if first_mm3 == last_mm3:
        return "the volume didn't change"
    return f"doubling time {days / log2(last_mm3 / first_mm3):.0f} days"


if __name__ == "__main__":
    server.run("stdio")
