"""Errors of the agent room."""


class AgentError(Exception):
    """Base of this room's errors. `hint` says what the caller can do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class QuestionRefused(AgentError):
    """A question that can't be taken: empty, or too long."""


class Busy(AgentError):
    """The conversation is still answering its last question."""


class Unknown(AgentError):
    """A conversation, message or evidence that isn't there."""


class PlannerDown(AgentError):
    """The language model's server can't be reached, broke off, or refused. `why`: the name in agent.language of what is said of it."""

    def __init__(self, message: str, hint: str = "", why: str = "model_down") -> None:
        super().__init__(message, hint)
        self.why = why
