"""Run by the clients' own Python: store, search and retrieve with dicomweb-client; prints what it saw as JSON.

Arguments: base URL, key, folder of DICOM files.
"""

import hashlib
import json
import sys
from pathlib import Path

import pydicom
from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session


def digest(dataset: pydicom.Dataset) -> str:
    return hashlib.sha256(dataset.PixelData).hexdigest()


def main(base: str, key: str, folder: str) -> None:
    session = create_session()
    session.headers["Authorization"] = f"Bearer {key}"
    client = DICOMwebClient(base, session=session)
    files = sorted(Path(folder).glob("*.dcm"))
    sent = [pydicom.dcmread(f) for f in files]
    answer = client.store_instances(sent)
    one = sent[0]
    study, series, sop = one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID
    back = client.retrieve_series(study, series)
    frames = client.retrieve_instance_frames(study, series, sop, frame_numbers=[1])
    metadata = client.retrieve_series_metadata(study, series)
    rendered = client.retrieve_instance_rendered(study, series, sop, media_types=("image/png",), params={"viewport": "64,64"})
    bulk = client.retrieve_bulkdata(next(m["7FE00010"]["BulkDataURI"] for m in metadata if m["00080018"]["Value"] == [sop]))
    same = {d.SOPInstanceUID: d for d in back}
    print(json.dumps({
        "referenced": len(answer.ReferencedSOPSequence), "failed": len(answer.get("FailedSOPSequence") or []),
        "studies": len(client.search_for_studies(search_filters={"PatientID": one.PatientID}, fields=["StudyDescription"])),
        "series": len(client.search_for_series(study)), "instances": len(client.search_for_instances(study, series, limit=1000)),
        "same": all(same[d.SOPInstanceUID] == d and digest(same[d.SOPInstanceUID]) == digest(d) for d in sent),
        "frame": frames[0] == one.PixelData, "bulk": bulk[0] == one.PixelData, "metadata": len(metadata), "rendered": rendered[:4] == b"\x89PNG",
        "iterated": sum(1 for _ in client.iter_series(study, series)),
    }))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
