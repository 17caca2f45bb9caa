"""Values in the unit that is wanted: UCUM by pint, and amount to mass for the few substances whose factor has a source.

A unit that isn't known is never converted.
"""

import math
import re
from functools import cache
from typing import Any

MOLAR = {"creatinine": ("umol/L", "mg/dL", 88.4), "bilirubin": ("umol/L", "mg/dL", 17.1)}
"""Amount unit, mass unit, and how many of the first are one of the second (shared/guidelines: egfr_contrast, child_pugh_albi)."""
_WRITTEN = {
    "μ": "u",
    "µ": "u",
    "mcg": "ug",
    "x10^": "10*",
    "x10e": "10*",
    "×10^": "10*",
    "10^": "10*",
    "10e": "10*",
    "⁹": "9",
    "³": "3",
    "²": "2",
}
_PLAIN = {"umol/l": "umol/L", "mmol/l": "mmol/L", "mg/dl": "mg/dL", "g/dl": "g/dL", "g/l": "g/L", "mg/l": "mg/L", "ng/ml": "ng/mL",
          "ug/l": "ug/L", "ng/dl": "ng/dL", "iu/ml": "[IU]/mL", "u/l": "U/L", "percent": "%", "ml": "mL", "g/100ml": "g/dL", "": "1",
          "{inr}": "1", "inr": "1", "ratio": "1", "{ratio}": "1", "{score}": "1"}  # fmt: skip


@cache
def _registry() -> Any:
    from ucumvert import PintUcumRegistry

    return PintUcumRegistry()


def ucum(written: str | None) -> str:
    """A unit as UCUM writes it, where the way it is written is a common one."""
    text = (written or "").strip().replace(" ", "")
    for old, new in _WRITTEN.items():
        text = text.replace(old, new)
    return _PLAIN.get(text.lower(), re.sub(r"\{[^}]*\}", "", text) or "1")


def convert(value: float, unit: str | None, wanted: str, substance: str = "") -> float | None:
    """`value` in the unit `wanted` (UCUM); None where the units don't go together or one isn't known."""
    have = ucum(unit)
    if have == wanted:
        return float(value)
    amount, mass, factor = MOLAR.get(substance, ("", "", 1.0))
    if amount:
        through_mass = _linear(value, have, mass)
        through_amount = _linear(value, have, amount)
        if wanted == amount and through_mass is not None:
            return _rounded(through_mass * factor)
        if wanted == mass and through_amount is not None:
            return _rounded(through_amount / factor)
    found = _linear(value, have, wanted)
    return None if found is None else _rounded(found)


def _linear(value: float, have: str, wanted: str) -> float | None:
    if have == wanted:
        return float(value)
    if "1" in (have, wanted):
        return None
    from lark.exceptions import LarkError
    from pint.errors import PintError

    try:
        registry = _registry()
        return float((value * registry.from_ucum(have)).to(registry.from_ucum(wanted)).magnitude)
    except (PintError, LarkError, ValueError, TypeError, AttributeError, KeyError):
        return None


def _rounded(value: float) -> float:
    return value if value == 0 else round(value, max(0, 5 - math.floor(math.log10(abs(value)))))
