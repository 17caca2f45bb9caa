"""Measurements as tables for research (CSV, Parquet): numbers, units, what measured them; days instead of dates, no name and no number of the patient."""

import io
from collections.abc import Sequence
from datetime import date
from typing import Any, Literal

from knowledge.evidence import Evidence, ImageRef
from knowledge.response.model import Worksheet
from knowledge.studies.model import Study

TableForm = Literal["csv", "parquet"]
MEDIA: dict[TableForm, str] = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
WORKSHEET = {"criteria": "string", "version": "int64", "lesion": "string", "tracking_uid": "string", "organ": "string", "node": "bool", "role": "string",
             "study": "string", "day": "int64", "state": "string", "long_axis_mm": "double", "short_axis_mm": "double", "product_mm2": "double",
             "volume_ml": "double", "long_axis_low_mm": "double", "long_axis_high_mm": "double", "parts": "int64", "slice_mm": "double", "sum": "double",
             "sum_unit": "string", "category": "string"}  # fmt: skip
MEASUREMENTS = {"patient": "string", "study": "string", "day": "int64", "series": "string", "quantity": "string", "value": "double", "unit": "string",
                "low": "double", "high": "double", "code": "string", "code_system": "string", "frame": "int64", "measured_by": "string",
                "version": "string"}  # fmt: skip
"""Columns and their types, as pyarrow names them."""


def worksheet_rows(sheet: Worksheet) -> list[dict[str, Any]]:
    """One row for each lesion on each study. `day` counts from the first study."""
    first = date.fromisoformat(sheet.studies[0].date)
    days = {s.handle: (date.fromisoformat(s.date) - first).days for s in sheet.studies}
    points = {p.study: p for p in sheet.points}
    rows = []
    for one in sheet.lesions:
        for size in one.sizes:
            low, high = size.interval_mm or (None, None)
            point = points.get(size.study)
            rows.append({
                "criteria": str(sheet.criteria), "version": sheet.version, "lesion": one.name, "tracking_uid": one.tracking_uid, "organ": one.organ, "node": one.node,
                "role": str(one.role), "study": size.study, "day": days[size.study], "state": str(size.state), "long_axis_mm": size.long_mm,
                "short_axis_mm": size.short_mm, "product_mm2": size.product_mm2, "volume_ml": size.volume_ml, "long_axis_low_mm": low,
                "long_axis_high_mm": high, "parts": size.parts, "slice_mm": size.slice_mm, "sum": point.total if point else None, "sum_unit": sheet.unit,
                "category": point.category if point else None,
            })  # fmt: skip
    return rows


def measurement_rows(evidence: Sequence[Evidence], studies: Sequence[Study], pseudonym: str) -> list[dict[str, Any]]:
    """One row for each measurement that was ever told of a patient's images. `day` counts from their first dated study."""
    dated = [s.date for s in studies if s.date and len(s.date) == 10]
    first = date.fromisoformat(min(dated)) if dated else None
    known = {s.id: s for s in studies}
    rows, seen = [], set()
    for one in evidence:
        source = one.source
        if not isinstance(source, ImageRef) or source.study_id not in known or not isinstance(one.value, int | float):
            continue
        study = known[source.study_id]
        series = next((q.handle for q in study.series if q.series_uid == source.series_uid), "")
        day = (date.fromisoformat(study.date) - first).days if first and study.date and len(study.date) == 10 else None
        low, high = one.interval or (None, None)
        row = {"patient": pseudonym, "study": study.handle, "day": day, "series": series, "quantity": one.title, "value": float(one.value), "unit": one.unit,
               "low": low, "high": high, "code": one.code.code if one.code else None, "code_system": one.code.system if one.code else None, "frame": source.frame,
               "measured_by": source.model, "version": source.model_version}  # fmt: skip
        if (key := tuple(row.values())) not in seen:
            seen.add(key)
            rows.append(row)
    return rows


def as_table(rows: Sequence[dict[str, Any]], columns: dict[str, str], form: TableForm) -> bytes:
    """Rows as CSV (UTF-8, with a header) or Parquet, with typed columns also where there are no rows."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    kinds = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
    table = pa.Table.from_pylist(list(rows), schema=pa.schema([(n, kinds[k]) for n, k in columns.items()]))
    buffer = io.BytesIO()
    if form == "csv":
        csv.write_csv(table, buffer)
    else:
        parquet.write_table(table, buffer)
    return buffer.getvalue()
