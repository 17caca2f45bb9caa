"""Which MR sequence a series is, from its name or description."""

import re

# Order matters: T1c before T1, FLAIR before T2 (descriptions such as "T2 FLAIR", "t1 post").
_PATTERNS = [
    ("FLAIR", r"flair|(?<![a-z])fla(?![a-z])|dark.?fluid|tirm"),
    ("ADC", r"(?<![a-z])adc(?![a-z])|apparent.?diffusion"),
    ("DWI", r"(?<![a-z])dwi(?![a-z])|diffusion|(?<![a-z])b1000(?!\d)"),
    ("T1c", r"t1.?(c|ce|gd|gad|km)(?![a-z])|t1.{0,20}(post|contrast|\+c|\+gd|gad)|(post|contrast).{0,20}t1"),
    ("T1", r"(?<![a-z])t1(?!\d)|mprage|spgr|bravo"),
    ("T2", r"(?<![a-z])t2(?!\d)"),
]


def sequence_of(text: str, contrast_agent: str = "") -> str | None:
    """The sequence named in `text`: T1, T1c, T2, FLAIR, DWI or ADC; None when it names none.

    A `contrast_agent` (DICOM 0018,0010) turns T1 into T1c.
    """
    lowered = text.lower()
    for name, pattern in _PATTERNS:
        if re.search(pattern, lowered):
            return "T1c" if name == "T1" and contrast_agent.strip() else name
    return None
