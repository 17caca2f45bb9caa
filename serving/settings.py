"""Settings of the server, from arguments, `CONSILIUM_*` variables and `consilium.toml`."""

import re
from pathlib import Path
from typing import Literal

from platformdirs import user_data_path
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from serving.access.clients import EhrServer, SmartClient, Webhook
from tools.apart import Process
from tools.openapi import Service

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Settings(BaseSettings):
    """Where data lies, what is listened on, and which language model plans."""

    model_config = SettingsConfigDict(env_prefix="CONSILIUM_", toml_file="consilium.toml", extra="forbid")

    data: Path = Field(default_factory=lambda: user_data_path("consilium"), description="Folder of all data.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8420, ge=1, le=65535, description="Port to listen on.")
    database_url: str | None = Field(None, description="SQLAlchemy URL of the archive; left out: SQLite in the data folder.")
    conversations_url: str | None = Field(
        None,
        description="PostgreSQL URL (postgresql+psycopg://…) of conversations and checkpoints; left out: SQLite in the data folder.",
    )
    llm_url: str | None = Field(None, description="Base URL of an OpenAI-compatible server (vLLM), ending in /v1.")
    llm_model: str | None = Field(None, description="Name of the model that it serves.")
    llm_key: SecretStr | None = Field(None, description="Key for that server, where it wants one.")
    llm_timeout_s: float = Field(120, gt=0, description="Seconds to wait for one reply of the language model.")
    llm_fallback: bool = Field(True, description="Let the built-in planner take over, and say so, where that server fails.")
    answer_timeout_s: float = Field(600, gt=0, description="Seconds for one answer; what was found until then is told.")
    llm_probe: bool = Field(
        True, description="Try at start what that server can do (tools, schema, pictures), and ask accordingly."
    )
    llm_vision: bool | None = Field(
        None, description="The language model takes pictures: `look` may show it key slices. Left out: as found at start."
    )
    llm_chooses: bool = Field(
        False, description="The language model is too weak to write: it chooses evidence, told in its own sentences."
    )
    llm_turns: int | None = Field(
        None, ge=0, description="Earlier questions of a conversation that the language model reads; left out: all of them."
    )
    llm_profiles: Path | None = Field(
        None, description="A hospital's own profiles for `llm serve`; left out: llm_profiles.yaml in the data folder."
    )
    models: Path | None = Field(None, description="Folder of a hospital's own models; left out: models in the data folder.")
    embedder: str = Field(
        "minilm",
        description="What guidelines are searched with: minilm, a sentence-transformers folder, or a model's name on embedder_url.",
    )
    embedder_url: str | None = Field(None, description="Base URL of an OpenAI-compatible server with /embeddings.")
    embedder_key: SecretStr | None = Field(None, description="Key for the embedding and re-ranking servers.")
    reranker: str | None = Field(
        None, description="Re-ranks the best passages: a cross-encoder's folder, or a model's name on reranker_url."
    )
    reranker_url: str | None = Field(None, description="Base URL of a server with /rerank.")
    chroma_url: str | None = Field(None, description="A Chroma server; left out: Chroma runs embedded in the data folder.")
    report_templates: Path | None = Field(
        None, description="Folder of a hospital's own report templates; left out: templates in the data folder."
    )
    report_language: Literal["en", "de", "es", "fr", "zh"] = Field(
        "en", description="Language of drafted reports where a request names none."
    )
    report_style: Literal["concise", "full"] = Field("concise", description="full: drafts give the doubt of each measurement.")
    public_url: str | None = Field(
        None,
        description="Where others reach this server (https://images.example.org), for links that it gives; left out: as each request names it.",
    )
    allowed_origins: list[str] = Field(
        default_factory=list,
        description="Origins of other web apps (an OHIF viewer, say) whose pages may call this server; none by default.",
    )
    dimse_port: int | None = Field(
        None, ge=1, le=65535, description="Port for C-STORE, C-FIND, C-MOVE, C-GET and C-ECHO; left out: none."
    )
    ae_title: str = Field("CONSILIUM", min_length=1, max_length=16, description="Our application entity title.")
    dimse_peers: dict[str, str] = Field(
        default_factory=dict,
        description='Application entities that may call, and where they listen: {"PACS": "10.0.0.7:104"}. Others are turned away.',
    )
    route_results_to: list[str] = Field(
        default_factory=list,
        description="Titles of dimse_peers that get each result (SEG, SR) once a person has signed or confirmed it.",
    )
    commit_by: list[str] = Field(
        default_factory=list, description="Titles that are asked for storage commitment of what is sent to them."
    )
    priors_from: list[str] = Field(
        default_factory=list,
        description="Titles of dimse_peers that are asked for a patient's earlier studies when a new one arrives.",
    )
    priors_most: int = Field(5, ge=1, le=100, description="Earlier studies that are fetched at most, newest first.")
    mllp_port: int | None = Field(None, ge=1, le=65535, description="Port for HL7 v2 over MLLP; left out: none.")
    mllp_allowed: list[str] = Field(
        default_factory=list, description="IP addresses that may send HL7 messages. Others are turned away."
    )
    mllp_send_to: dict[str, str] = Field(
        default_factory=dict, description='Receivers of signed reports as HL7 ORU: {"HIS": "10.0.0.8:2575"}.'
    )
    smart_clients: dict[str, SmartClient] = Field(
        default_factory=dict, description="Apps and backend services that may get tokens for /fhir (SMART), by client_id."
    )
    ehr_servers: dict[str, EhrServer] = Field(
        default_factory=dict, description="FHIR servers of EHRs by their base URL: they may launch our page, and be read."
    )
    cds_clients: dict[str, Path] = Field(
        default_factory=dict,
        description="EHRs that call our CDS services: the iss of their JWTs, and a file with their public keys (jwks).",
    )
    cds_duplicate_days: int = Field(
        30, ge=1, description="An order is told of as a duplicate where the same was imaged within these days."
    )
    webhooks: list[Webhook] = Field(
        default_factory=list,
        description='Receivers of events: [{"url": "https://…", "secret": "…", "events": ["report.ready"]}].',
    )
    subscription_hosts: list[str] = Field(
        default_factory=list, description="Hosts to which FHIR subscriptions may have notifications sent; none by default."
    )
    mcp_servers: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description='MCP servers whose tools join: {"lab": "http://127.0.0.1:9000/mcp"}, or a command: {"lab": ["python", "server.py"]}.',
    )
    http_services: dict[str, Service] = Field(
        default_factory=dict,
        description='HTTP services whose operations join as tools: {"lab": {"spec": "lab-openapi.json", "url": "http://127.0.0.1:9001"}}.',
    )
    similar_cases: bool = Field(
        False, description="Let `find_similar_cases` look at other patients' studies of this archive, de-identified."
    )
    similar_for: list[str] = Field(
        default_factory=list,
        description="Roles of keys that may use `find_similar_cases` (see `consilium keys create --role`); nobody by default.",
    )
    tools_off: list[str] = Field(default_factory=list, description="Names of tools that nobody may use.")
    tools_for: dict[str, list[str]] = Field(
        default_factory=dict,
        description='Tools that only keys of these roles may use: {"look": ["radiologist"]} (see `consilium keys create --role`).',
    )
    tool_processes: dict[str, Process] = Field(
        default_factory=dict,
        description='Tools that run in a process of their own: {"hu_histogram": {"memory_mb": 2000, "seconds": 60, "python": "/opt/env/bin/python"}}.',
    )
    no_auth: bool = Field(False, description="Let everyone in; only on loopback.")
    deidentify_on_import: Literal["off", "basic", "research"] = Field(
        "off", description="De-identify DICOM before anything of it is kept (PS3.15 profile); nothing else is then taken in."
    )
    max_upload_mb: int = Field(8192, gt=0, description="Largest upload, in MiB.")

    @model_validator(mode="after")
    def _closed(self) -> "Settings":
        if self.no_auth and self.host not in LOOPBACK:
            raise ValueError("--no-auth is refused on anything but loopback")
        if any(not re.fullmatch(r"[^\\\s]{1,16}", t) or not re.fullmatch(r".+:\d{1,5}", a) for t, a in self.dimse_peers.items()):
            raise ValueError('dimse_peers names application entities and where they listen: {"PACS": "10.0.0.7:104"}')
        strange = {*self.route_results_to, *self.commit_by, *self.priors_from} - set(self.dimse_peers)
        if strange:
            raise ValueError(
                f"route_results_to, commit_by and priors_from name titles of dimse_peers; {sorted(strange)[0]} isn't one"
            )
        if self.dimse_port and not self.dimse_peers:
            raise ValueError("dimse_port needs dimse_peers: nobody could call")
        if self.mllp_port and not self.mllp_allowed:
            raise ValueError("mllp_port needs mllp_allowed: nobody could send")
        if self.llm_url and not self.llm_model:
            raise ValueError("--llm-url needs --llm-model")
        return self

    @property
    def model_folder(self) -> Path:
        """Where `models add` puts bundles."""
        return self.models or self.data / "models"

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
