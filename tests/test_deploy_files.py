"""The examples under docs/deploy can be read, and set nothing that the daemon does not know."""

import configparser
import re
from pathlib import Path

import pytest
import yaml

from memoryd.config import Settings
from memoryd.storage.topology import SCHEMES

DEPLOY = Path(__file__).parent.parent / "docs" / "deploy"
FILES = sorted(path for path in DEPLOY.iterdir() if path.name != "README.md")


def text_of(name: str) -> str:
    return (DEPLOY / name).read_text("utf-8")


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_is_a_setting_and_every_url_has_a_known_form(path: Path) -> None:
    text = path.read_text("utf-8")
    for name in re.findall(r"MEMORYD_([A-Z_]+)", text):
        assert name.lower() in Settings.model_fields, name
    for scheme in re.findall(r"\b(rediss?[a-z-]*|unix)://", text):
        assert scheme in SCHEMES


def test_the_readme_names_every_file_and_form() -> None:
    text = text_of("README.md")
    assert all(f"({path.name})" in text for path in FILES)
    assert all(f"{scheme}://" in text for scheme in SCHEMES)


def test_the_settings_are_the_daemons() -> None:
    settings = Settings.load(DEPLOY / "memoryd.yaml")
    assert settings.api_keys[0].tenant == "operators"


def test_whoever_stops_a_daemon_waits_until_it_has_drained() -> None:
    drain = Settings.load(DEPLOY / "memoryd.yaml").drain_timeout
    compose = yaml.safe_load(text_of("compose.yaml"))
    assert seconds(compose["services"]["memoryd-a"]["stop_grace_period"]) > drain
    deployment, *_ = yaml.safe_load_all(text_of("kubernetes.yaml"))
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > drain
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text_of("memoryd.service"))
    assert float(unit["Service"]["TimeoutStopSec"]) > drain
    assert unit["Service"]["KillMode"] == "mixed"


def test_ports_and_names_fit_together() -> None:
    port = int(Settings.load(DEPLOY / "memoryd.yaml").listen.rpartition(":")[2])
    compose = yaml.safe_load(text_of("compose.yaml"))
    daemons = {
        name: service["environment"]["MEMORYD_ADVERTISE"]
        for name, service in compose["services"].items()
        if name.startswith("memoryd")
    }
    assert daemons == {name: f"{name}:{port}" for name in daemons}
    envoy = yaml.safe_load(text_of("envoy.yaml"))
    (cluster,) = envoy["static_resources"]["clusters"]
    (group,) = cluster["load_assignment"]["endpoints"]
    addresses = [
        endpoint["endpoint"]["address"]["socket_address"] for endpoint in group["lb_endpoints"]
    ]
    assert {f"{one['address']}:{one['port_value']}" for one in addresses} == set(daemons.values())
    deployment, service, _ = yaml.safe_load_all(text_of("kubernetes.yaml"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["ports"][0]["containerPort"] == service["spec"]["ports"][0]["port"] == port
