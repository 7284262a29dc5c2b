"""docker-compose.yml: what no container is needed to see. (Running it is for a machine with images.)"""

from pathlib import Path
from typing import Any

import pytest
import yaml

COMPOSE = Path(__file__).resolve().parents[1] / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]


def test_it_has_the_broker_and_the_timings_store() -> None:
    assert SERVICES.keys() == {"mosquitto", "influxdb"}


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_service_is_pinned_healthy_and_without_privileges(service: str) -> None:
    given = SERVICES[service]
    assert given["image"].rpartition(":")[2] not in ("", "latest")
    assert given["healthcheck"]["test"][0] == "CMD"
    assert given["user"] not in ("", "root", "0", "0:0")
    assert given["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in given["security_opt"]
    assert "privileged" not in given


def test_published_ports_are_on_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_secret_stands_in_it() -> None:
    for service in SERVICES.values():
        for name in service.get("environment", {}):
            assert not name.endswith(("PASSWORD", "TOKEN")), f"{name}: give it as a file"
