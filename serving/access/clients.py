"""Others by their registration: apps and services that get tokens here, and EHRs whose apps we are (in consilium.toml, never by themselves)."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

EVENTS = ("report.ready", "finding.critical")
"""What others can be told of."""


class Webhook(BaseModel):
    """One receiver of the settings. `secret` signs what is sent."""

    model_config = ConfigDict(extra="forbid")
    url: str = Field(pattern=r"^https?://[^\s]+$")
    secret: SecretStr = Field(min_length=16)
    events: list[str] = Field(default_factory=lambda: list(EVENTS))


class SmartClient(BaseModel):
    """An app (redirect_uris, public, PKCE) or a backend service (jwks: a file with its public keys)."""

    model_config = ConfigDict(extra="forbid")
    redirect_uris: list[str] = Field(default_factory=list)
    jwks: Path | None = None
    scopes: list[str] = Field(default_factory=lambda: ["patient/*.rs", "launch", "launch/patient"])

    @model_validator(mode="after")
    def _some_way_in(self) -> "SmartClient":
        if not self.redirect_uris and self.jwks is None:
            raise ValueError("a SMART client has redirect_uris (an app) or jwks (a backend service)")
        if any(not u.startswith(("https://", "http://127.0.0.1", "http://localhost")) or "#" in u for u in self.redirect_uris):
            raise ValueError("redirect_uris are https (or on loopback), without a fragment")
        return self


class EhrServer(BaseModel):
    """An EHR's FHIR server: how we are known there. `key`: our private key (PEM), for backend services and as a confidential app."""

    model_config = ConfigDict(extra="forbid")
    client_id: str
    key: Path | None = None
    kid: str = "consilium"
    algorithm: str = Field("ES384", pattern="^(ES384|RS384)$")
    scopes: str = "launch openid fhirUser patient/*.rs"
    backend_scopes: str = "system/*.rs"
    backend: bool = Field(
        False, description="Bring a patient's resources in when a conversation starts (SMART backend services)."
    )
    writes: bool = Field(False, description="Signed reports may be sent there, each confirmed by a person.")

    @model_validator(mode="after")
    def _key_for_backend(self) -> "EhrServer":
        if self.backend and self.key is None:
            raise ValueError("an EHR read as a backend service needs key: our private key")
        return self
