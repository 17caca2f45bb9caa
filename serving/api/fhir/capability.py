"""The CapabilityStatement, made from the same tables that searching and writing use."""

from typing import Any

from serving.access.clients import EVENTS
from serving.api.fhir.search import _EVERY, KINDS, PARAMETERS, Parameter
from serving.api.fhir.shelf import Shelf
from serving.api.fhir.writing import WRITABLE
from serving.subscriptions import TOPIC
from tools.export.fhir import NOTE, TUMOUR_SIZE


def statement(shelf: Shelf, authorize: dict[str, str] | None, date: str) -> dict[str, Any]:
    """What this server does. `authorize`: SMART's endpoints (`token`, `authorize`), where it has them."""
    return {
        "resourceType": "CapabilityStatement", "status": "active", "date": date, "kind": "instance", "fhirVersion": "4.0.1",
        "publisher": "Consilium developers", "description": NOTE, "format": ["json", "application/fhir+json"],
        "software": {"name": "Consilium", "version": shelf.version.partition(" ")[2]},
        "implementation": {"description": "Consilium (research use only)", "url": shelf.base},
        "instantiates": ["http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data"],
        "rest": [{
            "mode": "server", "security": _security(authorize),
            "resource": [*(_resource(k) for k in sorted(KINDS)), _subscription()],
            "interaction": [{"code": "transaction"}, {"code": "batch"}],
            "operation": [{"name": "export", "definition": "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/export"}],
        }],
    }  # fmt: skip


def _security(authorize: dict[str, str] | None) -> dict[str, Any]:
    told: dict[str, Any] = {"cors": True, "description": "Authorization: Bearer KEY, or a token by SMART"}
    if authorize:
        kind = "http://terminology.hl7.org/CodeSystem/restful-security-service"
        told["service"] = [{"coding": [{"system": kind, "code": "SMART-on-FHIR"}]}]
        told["extension"] = [{"url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
                              "extension": [{"url": k, "valueUri": v} for k, v in authorize.items()]}]  # fmt: skip
    return told


def _subscription() -> dict[str, Any]:
    topic = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/capabilitystatement-subscriptiontopic-canonical"
    return {"type": "Subscription", "interaction": [{"code": c} for c in ("read", "search-type", "create", "delete")],
            "extension": [{"url": topic, "valueCanonical": TOPIC + e} for e in EVENTS]}  # fmt: skip


def _resource(kind: str) -> dict[str, Any]:
    writes = [{"code": "create"}, {"code": "update"}] if kind in WRITABLE else []
    every: dict[str, Parameter] = {**_EVERY, **PARAMETERS[kind]}
    references = [n for n, p in every.items() if p.kind == "reference"]
    backward = [f"{k}:{n}" for k, ps in PARAMETERS.items() for n, p in ps.items() if p.kind == "reference" and kind in p.targets]
    return {
        "type": kind, "versioning": "versioned" if kind in WRITABLE else "no-version", "readHistory": False, "updateCreate": kind in WRITABLE,
        "conditionalCreate": kind in WRITABLE, "interaction": [{"code": "read"}, {"code": "search-type"}, *writes],
        **({"supportedProfile": [TUMOUR_SIZE]} if kind == "Observation" else {}),
        **({"searchInclude": [f"{kind}:{n}" for n in references]} if references else {}),
        **({"searchRevInclude": backward} if backward else {}),
        "searchParam": [{"name": n, "type": p.kind} for n, p in every.items()],
        **({"operation": [{"name": "export", "definition": "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/patient-export"}]}
           if kind == "Patient" else {}),
    }  # fmt: skip
