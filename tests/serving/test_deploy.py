"""deploy/: valid under the schemas of Compose and Kubernetes, with vLLM's commands taken from the profiles, and closed."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from serving.llm.profiles import profile_of

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
RESOURCES: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "consilium.yaml").read_text(encoding="utf-8")))


def named(kind: str, name: str) -> dict[str, Any]:
    return next(r for r in RESOURCES if r["kind"] == kind and r["metadata"]["name"] == name)


def test_compose_is_valid_and_serves_the_profile() -> None:
    text = re.sub(
        r"\$\{(\w+):\?[^}]*\}",
        lambda m: f"/{m.group(1).lower()}" if m.group(1) == "MODELS" else "x",
        (DEPLOY / "compose.yaml").read_text(encoding="utf-8"),
    )
    PyCompose.from_yaml(text).validate()
    with pytest.raises(ValueError, match="portz"):
        PyCompose.from_yaml(text.replace("ports:", "portz:"))
    profile = profile_of("qwen3-vl-32b")
    vllm, app = COMPOSE["services"]["vllm"], COMPOSE["services"]["app"]
    assert vllm["command"] == profile.arguments("0.0.0.0", 8000)
    assert (
        profile.environment().items() <= vllm["environment"].items() and app["environment"]["CONSILIUM_LLM_MODEL"] == profile.name
    )
    devices = vllm["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["count"] == profile.cards


def test_in_compose_only_the_application_is_reachable_and_only_from_this_machine() -> None:
    assert COMPOSE["networks"]["inner"] == {"internal": True}
    for name, service in COMPOSE["services"].items():
        assert all(str(p).startswith("127.0.0.1:") for p in service.get("ports", []))
        assert name == "app" or (service["networks"] == ["inner"] and "ports" not in service)
    assert "password" not in (DEPLOY / "compose.yaml").read_text(encoding="utf-8").lower().replace("postgres_password", "")


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda r: f"{r['kind']}-{r['metadata']['name']}")
def test_kubernetes_resources_are_valid(resource: dict[str, Any]) -> None:
    kubernetes_validate.validate(resource, "1.37", strict=True)


def test_in_kubernetes_vllm_is_that_of_the_profile_and_nothing_leaves() -> None:
    profile = profile_of("qwen3-vl-32b")
    container = named("Deployment", "vllm")["spec"]["template"]["spec"]["containers"][0]
    assert (
        container["args"] == profile.arguments("0.0.0.0", 8000)
        and container["resources"]["limits"]["nvidia.com/gpu"] == profile.cards
    )
    policy = named("NetworkPolicy", "nothing-leaves")["spec"]
    assert policy["podSelector"] == {} and set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert not any("ipBlock" in to for rule in policy["egress"] for to in rule["to"])
    services = {r["metadata"]["name"] for r in RESOURCES if r["kind"] == "Service"}
    env = {e["name"]: e.get("value", "") for e in named("Deployment", "app")["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert {"vllm", "chroma", "postgres", "app"} <= services and env["CONSILIUM_LLM_URL"] == "http://vllm:8000/v1"


def test_ray_serve_has_the_profiles_engine() -> None:
    service = yaml.safe_load((DEPLOY / "kubernetes" / "ray-serve.yaml").read_text(encoding="utf-8"))
    config = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]["llm_configs"][0]
    profile = profile_of(config["model_loading_config"]["model_id"])
    assert config["engine_kwargs"] == profile.engine() and config["model_loading_config"]["model_source"] == profile.model
    workers = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert workers["resources"]["limits"]["nvidia.com/gpu"] == profile.cards
