"""Errors of the tools room, by who should act."""


class ToolError(Exception):
    """Base of this room's errors. `hint` says what would help."""

    status = "failed"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class TryAgain(ToolError):
    """The model can mend its arguments."""

    status = "failed"


class NotApplicable(ToolError):
    """The input isn't what the tool is made for: the user has to know."""

    status = "not_applicable"


class Failed(ToolError):
    """The run broke; the message carries the run's id, never patient data."""

    status = "failed"


class NeedsApproval(ToolError):
    """A person has to confirm before the tool may write."""

    status = "refused"


class Cancelled(ToolError):
    """The person or client that asked doesn't want the answer any more."""

    status = "refused"
