"""Errors of the knowledge room: each names the input, what is wrong with it and what the caller can do."""


class KnowledgeError(Exception):
    """Base of this room's errors. `hint` tells the caller what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NotFound(KnowledgeError):
    """A study, series, record, passage or evidence that isn't there."""


class Gone(NotFound):
    """It was here and was deleted."""


class Refused(KnowledgeError):
    """A file that can't be taken in. The message is the reason."""

    instance: tuple[str, str] = ("", "")
    """SOP class and instance UID of a DICOM file, as far as they can be told."""


class InvalidFacts(KnowledgeError):
    """Facts for a rule with an unknown name, a wrong type or a value out of range."""


class MixedPatients(KnowledgeError):
    """One case was asked for with studies of more than one patient."""


class NoGeometry(KnowledgeError):
    """Lengths were asked of an image without true spacing."""


class StorageFailed(KnowledgeError):
    """The archive can't be written (disk full, read-only, no permission). Nothing of what was asked for was stored."""


class ServiceDown(KnowledgeError):
    """A server that the settings name (embeddings, Chroma, re-ranker) doesn't answer."""
