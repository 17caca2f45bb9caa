"""DICOMweb (PS3.18) at /dicom-web."""

from fastapi import APIRouter

from serving.api.dicomweb import retrieve, search, store

router = APIRouter()
for part in (search, retrieve, store):
    router.include_router(part.router)
