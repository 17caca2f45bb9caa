"""Standardised uptake values of PET (body weight): the factor from Bq/mL to g/mL, or why there is none.

The steps are those of the QIBA FDG-PET/CT profile's vendor-neutral pseudo-code, for images in BQML that are corrected for decay
and attenuation (PS3.3 C.8.9.1).
"""

from datetime import datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset


def factor(dataset: Dataset) -> tuple[float | None, str]:
    """Grams per millilitre for one Bq/mL, and why it can't be had where it is None."""
    if str(dataset.get("Units")) == "GML":
        return 1.0, ""
    if str(dataset.get("Units")) != "BQML":
        return None, f"the units are {dataset.get('Units') or 'not stated'}, not BQML"
    corrected = [str(c) for c in dataset.get("CorrectedImage") or []]
    if "ATTN" not in corrected or "DECY" not in corrected:
        return None, "the image isn't corrected for attenuation and decay"
    weight = _number(dataset.get("PatientWeight"))
    tracer = (dataset.get("RadiopharmaceuticalInformationSequence") or [None])[0]
    if not weight or tracer is None:
        return None, "the patient's weight or the radiopharmaceutical isn't stated"
    dose, half_life = _number(tracer.get("RadionuclideTotalDose")), _number(tracer.get("RadionuclideHalfLife"))
    if not dose or not half_life:
        return None, "the injected dose or the half-life isn't stated"
    if str(dataset.get("DecayCorrection")) == "ADMIN":
        return weight * 1000 / dose, ""
    if str(dataset.get("DecayCorrection")) != "START":
        return None, "the decay correction's reference time isn't stated"
    scan, injection = _scan_start(dataset), _injection(dataset, tracer)
    if scan is None or injection is None:
        return None, "the time of the scan or of the injection isn't stated"
    waited = (scan - injection).total_seconds()
    if not 0 <= waited < 86_400:
        return None, "the scan doesn't start within a day of the injection"
    return weight * 1000 / (dose * 2 ** (-waited / half_life)), ""


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _moment(day: Any, clock: Any) -> datetime | None:
    text = f"{day or ''}{str(clock or '').split('.')[0]}"
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%S")
    except ValueError:
        return None


def _scan_start(dataset: Dataset) -> datetime | None:
    """The series' start; a series time later than the acquisition is that of a reformatting, so the acquisition's is used."""
    series = _moment(dataset.get("SeriesDate"), dataset.get("SeriesTime"))
    acquired = _moment(dataset.get("AcquisitionDate"), dataset.get("AcquisitionTime"))
    return min(series, acquired) if series and acquired else series or acquired


def _injection(dataset: Dataset, tracer: Dataset) -> datetime | None:
    stated = str(tracer.get("RadiopharmaceuticalStartDateTime") or "")
    if len(stated) >= 14:
        return _moment(stated[:8], stated[8:14])
    moment = _moment(dataset.get("SeriesDate"), tracer.get("RadiopharmaceuticalStartTime"))
    scan = _scan_start(dataset)
    # Without a date the injection is the last one before the scan: an evening's injection for a scan after midnight.
    return moment - timedelta(days=1) if moment and scan and moment > scan else moment
