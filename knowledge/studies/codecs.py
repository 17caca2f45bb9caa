"""imagecodecs as a pydicom decoder plug-in, for what pydicom's other plug-ins lack or do slower (PS3.5 A.4).

JPEG lossless and 12-bit JPEG have no other permissive decoder; grey JPEG 2000 and JPEG-LS are decoded faster. Other colour
goes to pydicom's own plug-ins first, which know each codec's colour transformation.
"""

from typing import Any

from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

NAME = "imagecodecs"
DECODER_DEPENDENCIES = dict.fromkeys(
    (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless, JPEG2000, JPEG2000Lossless),
    ("imagecodecs",),
)
_LOSSLESS_JPEG = (JPEGLossless, JPEGLosslessSV1)
_LS = (JPEGLSLossless, JPEGLSNearLossless)


def is_available(uid: str) -> bool:
    """True for the transfer syntaxes that this plug-in decodes."""
    return uid in DECODER_DEPENDENCIES


def decode(source: bytes, runner: Any) -> bytearray:
    """One frame's code stream as little-endian pixel bytes, colour by pixel. Raises ValueError where it doesn't fit the header."""
    import imagecodecs
    import numpy as np

    uid = runner.transfer_syntax
    if uid in _LOSSLESS_JPEG:
        frame = imagecodecs.jpegsof3_decode(source)
    elif uid in _LS:
        frame = imagecodecs.jpegls_decode(source)
    elif uid == JPEGExtended12Bit:
        frame = imagecodecs.jpeg8_decode(source)
    else:
        frame = imagecodecs.jpeg2k_decode(source)
    shape = (
        (runner.rows, runner.columns)
        if runner.samples_per_pixel == 1
        else (runner.rows, runner.columns, runner.samples_per_pixel)
    )
    if frame.shape != shape:
        raise ValueError("the code stream's size isn't the header's")
    if frame.ndim == 3:
        runner.set_option("planar_configuration", 0)
        if runner.photometric_interpretation in ("YBR_RCT", "YBR_ICT"):  # OpenJPEG undoes JPEG 2000's own colour transformation
            runner.set_option("photometric_interpretation", "RGB")
    frame = np.ascontiguousarray(frame)
    runner.set_option("bits_allocated", frame.dtype.itemsize * 8)
    return bytearray(frame.astype(frame.dtype.newbyteorder("<")).tobytes())


def declared(source: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS (ISO 10918-1 B.2.2, 14495-1 C.2.2) or JPEG 2000 (15444-1 A.5.1) code stream names for itself.

    None where it names none, or is of another kind. A decoder makes room for these before anything compares them with the header's.
    """
    if source[:2] == b"\xff\xd8":
        at = 2
        while at + 9 <= len(source):
            if source[at] != 0xFF:
                return None
            marker = source[at + 1]
            if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
                return int.from_bytes(source[at + 5 : at + 7]), int.from_bytes(source[at + 7 : at + 9])
            at += 1 if marker == 0xFF else 2 + int.from_bytes(source[at + 2 : at + 4])
        return None
    at = source[:4096].find(b"\xff\x4f\xff\x51")
    if at < 0 or len(source) < at + 24:
        return None
    across, down, left, top = (int.from_bytes(source[at + n : at + n + 4]) for n in (8, 12, 16, 20))
    return down - top, across - left


def cut_short(source: bytes, uid: str) -> bool:
    """True for a JPEG-LS code stream without its end mark (which can't stand within one): CharLS counts to 2³² in some of these."""
    return uid in _LS and b"\xff\xd9" not in source


def install() -> None:
    """Offer the plug-in to pydicom's decoders, once."""
    for uid in DECODER_DEPENDENCIES:
        decoder = get_decoder(UID(uid))
        if NAME not in decoder._available:
            decoder.add_plugin(NAME, (__name__, "decode"))


def preferred(uid: str, samples: int) -> str:
    """The plug-in to try first; empty for pydicom's own order."""
    return NAME if uid in DECODER_DEPENDENCIES and samples == 1 else ""
