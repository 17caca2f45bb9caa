"""Doubling time: the tools of an MCP server that runs in a process of its own."""

import sys
from pathlib import Path

from tools.kinds import Mcp

OFFER = Mcp([sys.executable, str(Path(__file__).parent / "server.py")])
