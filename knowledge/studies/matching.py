"""Attribute matching as archives do it (PS3.4 C.2.2.2): single value, list of UIDs, wildcards, ranges of dates and times, within sequences."""

import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import translate
from functools import cache
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from knowledge.errors import Refused
from knowledge.studies.tags import Tags, plain

Keys = Mapping[tuple[str, ...], str]
"""What is asked for: value by path of tags (one tag, or a sequence's and one within it)."""
_WILD = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
_RANGED = ("DA", "TM", "DT")


@cache
def path_of(name: str) -> tuple[str, ...]:
    """Tags of an attribute named by keyword or by eight hexadecimal digits, sequences parted by dots. Raises Refused for one that isn't."""
    path = []
    for part in name.split("."):
        number = int(part, 16) if re.fullmatch(r"[0-9A-Fa-f]{8}", part) else tag_for_keyword(part)
        if number is None or not (keyword_for_tag(number) or number >> 16 & 1):
            raise Refused(f"{part[:64]!r} is no attribute of the DICOM dictionary", "name it by its keyword or its tag")
        path.append(f"{number:08X}")
    return tuple(path)


def vr_of(tag: str) -> str:
    """Value representation by the dictionary; UN for a private attribute."""
    try:
        return str(dictionary_VR(int(tag, 16))).split(" ")[0]
    except KeyError:
        return "UN"


def texts_of(element: Mapping[str, Any] | None) -> Iterator[str]:
    """The values of an attribute in the JSON model, as text."""
    for value in (element or {}).get("Value") or []:
        if isinstance(value, dict):
            yield from (str(v) for v in value.values() if isinstance(v, str))
        elif value is not None:
            yield str(value)


def _elements(tags: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Mapping[str, Any] | None]:
    here = tags.get(path[0])
    if len(path) == 1:
        yield here
        return
    for item in (here or {}).get("Value") or []:
        if isinstance(item, dict):
            yield from _elements(item, path[1:])


@cache
def _test(vr: str, wanted: str, fuzzy: bool) -> Callable[[str], bool]:
    if vr in _RANGED and "-" in wanted:
        return _within(wanted)
    if vr == "UI":
        listed = {u for u in re.split(r"[\\,]", wanted) if u}
        return lambda text: text in listed
    if vr == "PN":
        if fuzzy:
            asked = words(wanted.replace("*", " ").replace("?", " "))
            return lambda text: all(any(w.startswith(a) for w in words(text)) for a in asked)
        pattern = _pattern(plain(wanted))
        return lambda text: pattern.fullmatch(plain(text)) is not None
    if vr in _WILD and re.search(r"[*?]", wanted):
        pattern = _pattern(wanted)
        return lambda text: pattern.fullmatch(text) is not None
    if vr == "TM":
        return lambda text: text[: len(wanted)] == wanted
    if vr in ("IS", "US", "UL", "SS", "SL", "DS", "FL", "FD"):
        return lambda text: _number(text) == _number(wanted)
    return lambda text: text.strip() == wanted.strip()


def _pattern(wanted: str) -> re.Pattern[str]:
    literal = wanted.replace("[", "[[]")  # fnmatch's own sets are none of DICOM's
    return re.compile(translate(literal), re.S)


def words(name: str) -> list[str]:
    """The words of a name, as they are matched loosely."""
    return [w for w in re.split(r"[\s^=,]+", plain(name)) if w]


def _within(wanted: str) -> Callable[[str], bool]:
    low, _, high = wanted.partition("-")
    return lambda text: bool(text) and (not low or text[: len(low)] >= low) and (not high or text[: len(high)] <= high)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def check(keys: Keys) -> None:
    """Raises Refused for a key whose value can't be meant: a date that is none, a UID with other characters."""
    for path, wanted in keys.items():
        vr = vr_of(path[-1])
        if len(wanted) > 4096:
            raise Refused("a value of the query is longer than any attribute", "shorten it")
        if vr == "DA" and wanted and not re.fullmatch(r"\d{8}|\d{8}-(?:\d{8})?|-\d{8}", wanted):
            raise Refused(
                f"{wanted[:40]!r} is no date or range of dates", "write 20240531, 20240501-20240531, 20240501- or -20240531"
            )
        if vr == "TM" and wanted and not re.fullmatch(r"[\d.:]{2,16}|[\d.:]{2,16}-(?:[\d.:]{2,16})?|-[\d.:]{2,16}", wanted):
            raise Refused(f"{wanted[:40]!r} is no time or range of times", "write 0930, 0930-1200, 0930- or -1200")
        if vr == "UI" and not re.fullmatch(r"[0-9.*\\,]*", wanted):
            raise Refused("a UID has digits and dots alone", "correct the UID")


def matches(tags: Tags, keys: Keys, fuzzy: bool = False) -> bool:
    """Whether `tags` fit all of `keys`; an empty value and a single star fit everything."""
    for path, wanted in keys.items():
        if wanted in ("", "*"):
            continue
        test = _test(vr_of(path[-1]), wanted.replace(":", "") if vr_of(path[-1]) == "TM" else wanted, fuzzy)
        if not any(test(text) for element in _elements(tags, path) for text in texts_of(element)):
            return False
    return True
