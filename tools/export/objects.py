"""The DICOM objects that a mask can become, by the names that requests use."""

from typing import Literal

from tools.export.drawn import Drawing
from tools.export.measured import as_key_objects, as_pictures, as_tid1500
from tools.export.rtstruct import as_rtstruct
from tools.export.seg import as_seg

Form = Literal["seg", "sr", "rtstruct", "ko", "sc"]
OBJECTS: dict[Form, str] = {"seg": "SEG", "sr": "SR", "rtstruct": "RTSTRUCT", "ko": "KO", "sc": "SC"}


def made(drawing: Drawing, form: Form) -> list[bytes]:
    """Part 10 files. Raises Refused where the source can't carry the object."""
    if form == "sc":
        return as_pictures(drawing)
    return [{"seg": as_seg, "sr": as_tid1500, "rtstruct": as_rtstruct, "ko": as_key_objects}[form](drawing)]
