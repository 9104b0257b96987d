"""The compose file agrees with itself, with the image, with its README and with the manifests for Kubernetes; each
check is shown a file that fails it.
"""

from __future__ import annotations

import copy
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

from crowddist.config import RunConfig
from crowddist.recipes import RECIPES, summary

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "cluster" / "compose"
KUBERAY = ROOT / "cluster" / "kuberay" / "base"
Document = dict[str, Any]
RAY = ("head", "worker", "submit", "bucket", "serve")
SERVERS = ("head", "worker", "mlflow", "postgres", "s3", "serve")
UNITS = {"k": 2**10, "m": 2**20, "g": 2**30}


def compose() -> Document:
    """The file, variables as they are written."""
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())


def words(service: Document) -> list[str]:
    """The command's words, those of a shell's command included."""
    return [word for part in service["command"] for word in (shlex.split(part) if "\n" not in part else [part])]


def option(service: Document, name: str) -> str:
    """The value of an option that is written --name=value."""
    (found,) = [word.removeprefix(f"--{name}=") for word in words(service) if word.startswith(f"--{name}=")]
    return found


def size(text: str) -> int:
    """Bytes of a size such as 1gb, 256mb or 4g."""
    return int(text.rstrip("bgm")) * UNITS[text.rstrip("b")[-1]]


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def folders(service: Document) -> dict[str, int]:
    """The folders in memory and their sizes."""
    return {each.split(":")[0]: size(re.search(r"size=(\w+)", each)[1])
            for each in service.get("tmpfs", ())}  # type: ignore[index]


def kuberay(name: str) -> list[Document]:
    return list(yaml.safe_load_all((KUBERAY / name).read_text()))


def check_the_image(document: Document) -> None:
    """One image for Ray and for MLflow, of this version; the others have a version that does not move."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    services = document["services"]
    assert {services[name]["image"] for name in (*RAY, "mlflow")} == {f"${{CROWDDIST_IMAGE:-crowddist:{version}}}"}
    for name in ("postgres", "s3"):
        assert re.fullmatch(r"\$\{[A-Z0-9_]+_IMAGE:-[a-z/]+:[0-9.]+\}", services[name]["image"])


def check_ports(document: Document) -> None:
    """This machine alone sees ports; who asks for one finds it; they are those of the manifests for Kubernetes."""
    services = document["services"]
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"head": ["127.0.0.1:8265:8265"], "mlflow": ["127.0.0.1:5000:5000"],
                         "serve": ["127.0.0.1:8000:8000"], "s3": ["127.0.0.1:8333:8333"]}
    (cluster,) = kuberay("cluster.yaml")
    (container,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    ports = {each["name"]: str(each["containerPort"]) for each in container["ports"]}
    assert (option(services["head"], "port") == ports["gcs-server"]
            and option(services["worker"], "address") == f"head:{ports['gcs-server']}")
    assert option(services["head"], "dashboard-port") == ports["dashboard"]
    alias = document["services"]["head"]["networks"]["inside"]["aliases"][0]
    assert f"getent hosts {alias} " in services["head"]["command"][2], "the workers could not reach the head"
    asked = services["submit"]["environment"]["RAY_API_SERVER_ADDRESS"]
    assert asked == f"http://head:{ports['dashboard']}"
    worker = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    for service, pod in ((services["head"], container), (services["worker"], worker)):
        probe = pod["livenessProbe"]["httpGet"]
        assert f"http://127.0.0.1:{probe['port']}{probe['path']}" in service["healthcheck"]["test"][-1]
    for name in ("head", "worker", "submit"):
        assert services[name]["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
        assert (services[name]["environment"]["AWS_ENDPOINT_URL"]
                == services["mlflow"]["environment"]["AWS_ENDPOINT_URL"] == "http://s3:8333")


def check_mlflow(document: Document) -> None:
    """The command is that of Kubernetes, but for the names it answers to."""
    server = document["services"]["mlflow"]
    (there,) = kuberay("mlflow.yaml")[0]["spec"]["template"]["spec"]["containers"]
    assert [*there["command"][2:],
            *(each for each in there["args"]
              if "allowed-hosts" not in each)] == [each for each in words(server) if "hosts" not in each]
    hosts = option(server, "allowed-hosts").split(",")
    assert "mlflow:5000" in hosts and "*" not in hosts
    assert {each["name"] for each in there["env"]} <= set(server["environment"])
    address = re.fullmatch(r"postgresql://(\w+):\$\{POSTGRES_PASSWORD:\?.*\}@postgres:5432/(\w+)",
                           server["environment"]["MLFLOW_BACKEND_STORE_URI"])
    database = document["services"]["postgres"]["environment"]
    assert address and (address[1], address[2]) == (database["POSTGRES_USER"], database["POSTGRES_DB"])


def check_the_service(document: Document) -> None:
    """The command, its patience and its room are those of Kubernetes, but for the counter."""
    server = document["services"]["serve"]
    deployment = kuberay("serve.yaml")[0]["spec"]["template"]["spec"]
    (there,) = deployment["containers"]
    assert [each for each in words(server) if not each.startswith("--model=")] == [
        *there["command"][2:], *(each for each in there["args"] if not each.startswith("--model="))]
    assert option(server, "model") == "${CROWDDIST_MODEL:-rendered}" and server["profiles"] == ["serve"]
    assert {each["name"] for each in there["env"]} <= set(server["environment"])
    assert not any("RAY" in key for key in server["environment"])
    assert server["ports"] == [f"127.0.0.1:{option(server, 'port')}:{there['ports'][0]['containerPort']}"]
    assert f"http://127.0.0.1:{option(server, 'port')}{there['readinessProbe']['httpGet']['path']}" in (
        server["healthcheck"]["test"][-1])
    assert seconds(server["stop_grace_period"]) == deployment["terminationGracePeriodSeconds"]
    room = folders(server)["/tmp"]
    assert int(server["environment"]["CROWDDIST_CACHE_BYTES"]) * 2 <= room < size(server["mem_limit"])


def check_secrets(document: Document) -> None:
    """None is in the file, none has a default, and the example names each without a value."""
    example = (FOLDER / ".env.example").read_text()
    assert not re.search(r"^[^#\n]+=.+$", example, re.M)
    for name, service in document["services"].items():
        for key, value in service.get("environment", {}).items():
            if re.search("TOKEN|PASSWORD|SECRET|ACCESS_KEY|URI$", key) and key != "MLFLOW_TRACKING_URI":
                needed = re.findall(r"\$\{(\w+):\?see \.env\.example\}", value)
                assert needed and "${" not in re.sub(r"\$\{\w+:\?see \.env\.example\}", "", value), f"{name}: {key}"
                assert all(f"\n{each}=\n" in example for each in needed)
        if name in ("head", "worker", "submit"):
            assert service["environment"]["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN" in service["environment"]
    assert "cluster/compose/.env\n" in (ROOT / ".gitignore").read_text()


def check_security(document: Document) -> None:
    """No container can write to its image, become more than it is, or is root."""
    for name, service in document["services"].items():
        assert (service["read_only"] is True and service["cap_drop"] == ["ALL"]
                and service["security_opt"] == ["no-new-privileges:true"]), name
        assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices",
                    "userns_mode"} & set(service), name
        assert "/tmp" in folders(service) and service["mem_limit"], name
        assert name not in ("postgres", "s3") or re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
        assert "user" not in service or name in ("postgres", "s3"), "the image's user is not root"
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in document["volumes"], f"{name} sees this machine's files: {volume}"


def check_networks(document: Document) -> None:
    """Only what has a port for this machine is in the network that has a way out."""
    assert document["networks"]["inside"]["internal"] is True
    for name, service in document["services"].items():
        assert set(service["networks"]) == ({"inside", "outside"} if "ports" in service else {"inside"}), name


def check_health(document: Document) -> None:
    """What serves says whether it is well, comes back, and is waited for."""
    services = document["services"]
    for name in SERVERS:
        assert services[name]["healthcheck"]["test"][0] == "CMD" and services[name]["restart"] == "unless-stopped", name
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] == ("service_healthy" if needed in SERVERS
                                        else "service_completed_successfully"), f"{name} on {needed}"
    assert set(services) == {*SERVERS, "submit", "bucket"} and services["submit"]["profiles"] == ["submit"]


def check_room(document: Document) -> None:
    """Object stores fit into shared memory, caches into /tmp, and all of it into what the container may take."""
    for name in ("head", "worker"):
        service = document["services"][name]
        assert int(option(service, "object-store-memory")) < size(service["shm_size"])
        assert int(service["environment"]["CROWDDIST_CACHE_BYTES"]) * 2 < folders(service)["/tmp"]
        assert (folders(service)["/tmp"] + size(service["shm_size"])
                < size(service["mem_limit"].split(":-")[1].rstrip("}")))
        drain_s = float(service["environment"]["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert seconds(service["stop_grace_period"]) > max(drain_s, RECIPES[0]().grace_s)
    assert (option(document["services"]["head"], "num-cpus") == "0"
            and document["services"]["worker"]["deploy"]["replicas"] == 2)


CHECKS = (check_the_image, check_ports, check_mlflow, check_the_service, check_secrets, check_security, check_networks,
          check_health, check_room)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_agreement(check: Callable[[Document], None]) -> None:
    check(compose())


def test_the_readme() -> None:
    """Its job is understood, asks for no more workers than there are, and each variable of the file is in the
    example.
    """
    text = (FOLDER / "README.md").read_text()
    (command,) = re.findall(r"ray job submit -- python \S+/adapt\.py ((?:.*\\\n)*.*)", text)
    found = shlex.split(command.replace("\\\n", " "))
    config: RunConfig = tyro.extras.overridable_config_cli({recipe.__name__: (summary(recipe), recipe())
                                                            for recipe in RECIPES}, args=found)
    document = compose()
    worker = document["services"]["worker"]
    assert config.num_workers <= worker["deploy"]["replicas"] * int(option(worker, "num-cpus"))
    assert (config.storage == document["services"]["head"]["environment"]["CROWDDIST_STORAGE"]
            and f"runs/{config.run_name}/report.html" in text)
    variables = set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text()))
    assert variables == set(re.findall(r"^(?:# )?([A-Z0-9_]+)=", (FOLDER / ".env.example").read_text(), re.M))
    assert all(len(line) <= 160 for path in FOLDER.iterdir() for line in path.read_text().splitlines())


def test_without_secrets_it_does_not_start() -> None:
    """As Docker reads the file, where it is there."""
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True,
                                                    timeout=60).returncode:
        pytest.skip("Docker has no compose here")
    words = ["docker", "compose", "--env-file", "/dev/null", "--file", str(FOLDER / "compose.yaml"), "config",
             "--quiet"]
    keys = ("RAY_AUTH_TOKEN", "CROWDDIST_TOKEN", "POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    clean = {key: value for key, value in os.environ.items() if key not in keys}
    assert subprocess.run(words, env={**clean, **dict.fromkeys(keys, "x")}, timeout=60).returncode == 0
    for key in keys:
        others = dict.fromkeys([each for each in keys if each != key], "x")
        assert subprocess.run(words, env={**clean, **others}, capture_output=True, timeout=60).returncode != 0, key


def service(document: Document, name: str) -> Any:
    return document["services"][name]


BREAKS: tuple[tuple[str, str, Callable[[Document], Any]], ...] = (
    ("check_the_image", "another image", lambda d: service(d, "worker").update(image="crowddist:0.0.9")),
    ("check_the_image", "a tag that moves",
     lambda d: service(d, "s3").update(image="${S3_IMAGE:-chrislusf/seaweedfs:latest}")),
    ("check_ports", "a port for all", lambda d: service(d, "head").update(ports=["8265:8265"])),
    ("check_ports", "the database's port", lambda d: service(d, "postgres").update(ports=["127.0.0.1:5432:5432"])),
    ("check_ports", "another head",
     lambda d: service(d, "worker").update(command=["ray", "start", "--address=master:6379"])),
    ("check_ports", "another MLflow",
     lambda d: service(d, "head")["environment"].update(MLFLOW_TRACKING_URI="http://mlflow:5001")),
    ("check_mlflow", "answers to any name",
     lambda d: service(d, "mlflow")["command"].__setitem__(-1, "--allowed-hosts=*")),
    ("check_mlflow", "another database", lambda d: service(d, "postgres")["environment"].update(POSTGRES_DB="other")),
    ("check_the_service", "for all", lambda d: service(d, "serve")["command"].append("--no-token")),
    ("check_the_service", "no profile", lambda d: service(d, "serve").update(profiles=[])),
    ("check_the_service", "killed while it answers", lambda d: service(d, "serve").update(stop_grace_period="10s")),
    ("check_secrets", "an open service",
     lambda d: service(d, "serve")["environment"].update(CROWDDIST_TOKEN="${CROWDDIST_TOKEN:-x}")),
    ("check_secrets", "a literal", lambda d: service(d, "s3")["environment"].update(AWS_SECRET_ACCESS_KEY="x")),
    ("check_secrets", "a default",
     lambda d: service(d, "head")["environment"].update(RAY_AUTH_TOKEN="${RAY_AUTH_TOKEN:-x}")),
    ("check_secrets", "no token", lambda d: service(d, "worker")["environment"].update(RAY_AUTH_MODE="disabled")),
    ("check_security", "a writable image", lambda d: service(d, "mlflow").update(read_only=False)),
    ("check_security", "root", lambda d: service(d, "postgres").update(user="0:0")),
    ("check_security", "privileged", lambda d: service(d, "head").update(privileged=True)),
    ("check_security", "this machine's files", lambda d: service(d, "s3").update(volumes=["/:/data"])),
    ("check_networks", "a way out", lambda d: service(d, "worker").update(networks=["inside", "outside"])),
    ("check_networks", "not internal", lambda d: d["networks"].update(inside={})),
    ("check_health", "no healthcheck", lambda d: service(d, "worker").pop("healthcheck")),
    ("check_health", "does not come back", lambda d: service(d, "head").pop("restart")),
    ("check_room", "too little shared memory", lambda d: service(d, "head").update(shm_size="256mb")),
    ("check_room", "a cache beyond its folder",
     lambda d: service(d, "worker")["environment"].update(CROWDDIST_CACHE_BYTES=str(2**40))),
    ("check_room", "killed while it drains", lambda d: service(d, "worker").update(stop_grace_period="10s")),
)


@pytest.mark.parametrize(("check", "what", "damage"), BREAKS, ids=[f"{check}-{what}" for check, what, _ in BREAKS])
def test_each_check_can_fail(check: str, what: str, damage: Callable[[Document], Any]) -> None:
    broken = copy.deepcopy(compose())
    damage(broken)
    assert broken != compose(), what
    with pytest.raises((AssertionError, KeyError, ValueError)):
        globals()[check](broken)
