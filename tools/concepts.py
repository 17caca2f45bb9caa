"""Coded concepts of findings and quantities (SNOMED CT, LOINC, DICOM), so that exports need no look-up table."""

from knowledge.evidence import Coding

SCT = "http://snomed.info/sct"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
OWN = "urn:consilium"

# Codes as DICOM uses them: CID 7470 and 7471 (linear measurements), TID 300 and CID 7469 (volume), PS3.16.
VOLUME = Coding(system=SCT, code="118565006", display="Volume")
LONG_AXIS = Coding(system=SCT, code="103339001", display="Long axis")
SHORT_AXIS = Coding(system=SCT, code="103340004", display="Short axis")
PRODUCT = Coding(system=OWN, code="bidimensional-product", display="Product of perpendicular diameters")
WHOLE_TUMOUR = Coding(system=OWN, code="whole-tumour", display="Outlined tumour region")
TUMOUR_TYPE = Coding(system=OWN, code="tumour-type", display="Tumour type by classifier")
ORGAN = Coding(system=OWN, code="outlined-organs", display="Outlined organs")
LESION_TYPE = Coding(system=OWN, code="lesion-type", display="Lesion type by classifier")
LESION = Coding(system=OWN, code="detected-lesion", display="Lesion found by a model")
FEATURES = Coding(system=OWN, code="radiomics", display="Radiomic features")
READING = Coding(system=OWN, code="reading-by-a-model", display="Reading by a vision-language model")
INTERVAL = Coding(system=OWN, code="interval-between-studies", display="Interval between studies")
CHANGE = {
    q: Coding(system=OWN, code=f"change-in-{q}", display=f"Change in {q} between studies")
    for q in ("volume", "diameter", "short", "product")
}
COURSE = Coding(system=OWN, code="course-over-time", display="Course of a quantity over studies")
TARGET_SUM = Coding(system=OWN, code="sum-of-targets", display="Sum of the target lesions")
DRAWN = Coding(system=OWN, code="outlines-of-others", display="Outlines that came with a study")
SIMILAR = Coding(system=OWN, code="similar-case", display="Similar case of the archive, de-identified")
ALIGNMENT = Coding(system=OWN, code="image-alignment", display="Alignment of two studies")
LESION_EVENT = Coding(system=OWN, code="lesion-over-time", display="What became of a lesion between studies")
DOUBLING_TIME = Coding(system=OWN, code="volume-doubling-time", display="Volume doubling time")
EXTENT = Coding(system=OWN, code="longest-3d-diameter", display="Longest diameter in space")
FROM_MIDLINE = Coding(system=OWN, code="distance-to-midline", display="Distance of the centre to the midline")
INTENSITY = Coding(system=OWN, code="mean-in-region", display="Mean value in the region")
STUDY_CONTENT = Coding(system=OWN, code="study-content", display="What a study holds")
IMAGE_METADATA = Coding(system=OWN, code="image-metadata", display="Attributes of a series")
EGFR = Coding(system="http://loinc.org", code="98979-8", display="eGFR, CKD-EPI 2021")
