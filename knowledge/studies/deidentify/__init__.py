"""De-identification by DICOM PS3.15 Annex E: profiles, the keyed vault, burned-in text, faces."""
