"""What the agent can do: LangChain tools that state what they need, give and are asked for."""
