"""Reports (sections, sentences, spans) and structured records (FHIR) of a patient."""
