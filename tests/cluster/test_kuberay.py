"""The manifests of cluster/kuberay: rendered, held against KubeRay's schemas where they are, and against each other.
Nothing here runs Kubernetes.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

from crowddist.config import RunConfig
from crowddist.recipes import RECIPES, summary
from tests.cluster import manifests
from tests.cluster.manifests import CHECKS, FOLDER, ROOT, Document, clusters, containers, entrypoint, of_kind, templates

OVERLAYS = ("cpu-small", "gpu")


def render(folder: Path) -> str:
    """What `kubectl apply -k` would send."""
    for program in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(program[0]):
            return subprocess.run([*program, str(folder)], check=True, capture_output=True, text=True,
                                  timeout=60).stdout
    pytest.skip("neither kustomize nor kubectl is installed")


@pytest.fixture(scope="module", params=OVERLAYS)
def documents(request: pytest.FixtureRequest) -> list[Document]:
    """The documents of each overlay."""
    return list(yaml.safe_load_all(render(FOLDER / "overlays" / request.param)))


@pytest.fixture(scope="module")
def validator() -> Path:
    """The program that holds documents against the schemas of KubeRay 1.7.0, unknown fields being errors."""
    program = Path(os.environ.get("CROWDDIST_KUBERAY_SCHEMAS",
                                  ROOT.parent / "shared" / "rig" / "kuberay")) / "validate.py"
    if not program.is_file():
        pytest.skip(f"no schemas at {program.parent}; set CROWDDIST_KUBERAY_SCHEMAS")
    return program


def validate(program: Path, documents: list[Document], place: Path) -> tuple[int, str]:
    """Exit code and words of the validator."""
    place.write_text(yaml.safe_dump_all(documents))
    ended = subprocess.run([sys.executable, str(program), str(place)], capture_output=True, text=True, timeout=300)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_agreement(documents: list[Document], check: Callable[[list[Document]], None]) -> None:
    check(documents)


def test_schemas(documents: list[Document], validator: Path, tmp_path: Path) -> None:
    """KubeRay's own documents, and the pods of MLflow and of the service by the schema of pods within; the other kinds
    of Kubernetes have no schema here.
    """
    judged = [each for each in documents
              if each["apiVersion"].startswith("ray.io/")] + [
                  manifests.pods_as_a_cluster(documents, name) for name in ("crowddist-mlflow", "crowddist-serve")]
    code, words = validate(validator, judged, tmp_path / "good.yaml")
    assert code == 0 and words.count("ok  ") == len(judged) == 4, words
    for each in (broken := copy.deepcopy(judged)):
        spec = each["spec"].get("rayClusterSpec", each["spec"])
        spec["headGroupSpec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
    code, words = validate(validator, broken, tmp_path / "bad.yaml")
    assert code == 1 and words.count("FAIL") == 4, words


def test_adapt_understands_the_command(documents: list[Document]) -> None:
    """With the variables filled in as the shell would."""
    words = [manifests.settings(documents).get(word.removeprefix("$"), word) for word in entrypoint(documents)]
    recipes = {recipe.__name__: (summary(recipe), recipe()) for recipe in RECIPES}
    config: RunConfig = tyro.extras.overridable_config_cli(recipes, args=words[2:])
    assert config.run_name == of_kind(documents, "RayJob")[0]["metadata"]["name"]
    assert config.storage == manifests.settings(documents)["CROWDDIST_STORAGE"] and config.evaluation == ""
    assert config.target == manifests.settings(documents)["CROWDDIST_TARGET"]
    for template in templates(documents):
        if template["metadata"]["labels"]["crowddist/role"] in ("head", "worker"):
            drain_s = float(manifests.settings(documents)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
            assert template["spec"]["terminationGracePeriodSeconds"] > max(config.grace_s, drain_s)


def test_files_name_no_other_machine() -> None:
    """Nothing of whoever wrote them: an image has no registry and no tag that moves; both are the overlay's user's to
    say.
    """
    for path in sorted(FOLDER.rglob("*")):
        text = path.read_text() if path.is_file() else ""
        images = re.findall(r"^[\s-]*image: *(\S+)", text, re.MULTILINE)
        assert all("/" not in image and not image.endswith(":latest") for image in images), f"{path}: {images}"
        assert all(len(line) <= 160 for line in text.splitlines()), path


def both(documents: list[Document], change: Callable[[Document], Any]) -> None:
    """Changes the standing cluster and the job's."""
    for cluster in clusters(documents):
        change(cluster)


def policy(documents: list[Document], name: str) -> Document:
    """A network policy's specification."""
    return next(each["spec"] for each in of_kind(documents, "NetworkPolicy") if each["metadata"]["name"] == name)


def server(documents: list[Document]) -> Any:
    """MLflow's container."""
    return manifests.deployed(documents, "crowddist-mlflow")


def counting(documents: list[Document]) -> Any:
    """The container of the service."""
    return manifests.deployed(documents, "crowddist-serve")


def job(documents: list[Document]) -> Document:
    """The job's specification."""
    return of_kind(documents, "RayJob")[0]["spec"]


def reword(documents: list[Document], old: str, new: str) -> None:
    """Changes the job's command."""
    assert old in job(documents)["entrypoint"]
    job(documents)["entrypoint"] = job(documents)["entrypoint"].replace(old, new)


BREAKS: tuple[tuple[str, str, Callable[[list[Document]], Any]], ...] = (
    ("check_versions", "a tag", lambda d: server(d).update(image="crowddist:0.0.9")),
    ("check_versions", "Ray's version", lambda d: both(d, lambda each: each.update(rayVersion="2.59.0"))),
    ("check_the_image", "a uid", lambda d: templates(d)[0]["spec"]["securityContext"].update(runAsUser=1001)),
    ("check_the_image", "where the jobs are", lambda d: reword(d, "/home/crowddist/jobs/", "jobs/")),
    ("check_the_run", "a run name per attempt",
     lambda d: reword(d, "--run-name camera-1", "--run-name camera-$RANDOM")),
    ("check_the_run", "storage that dies with the cluster",
     lambda d: manifests.settings(d).update(CROWDDIST_STORAGE="/tmp/runs")),
    ("check_the_run", "no other attempt", lambda d: job(d).update(backoffLimit=0)),
    ("check_the_clusters", "clusters that differ", lambda d: clusters(d)[0].update(enableInTreeAutoscaling=False)),
    ("check_the_clusters", "workers that come late",
     lambda d: both(d, lambda each: [g.update(minReplicas=0) for g in each["workerGroupSpecs"]])),
    ("check_the_clusters", "more workers than places", lambda d: reword(d, "--num-workers 2", "--num-workers 20")),
    ("check_the_clusters", "a working head",
     lambda d: both(d, lambda each: each["headGroupSpec"]["rayStartParams"].update({"num-cpus": "1"}))),
    ("check_secrets", "a Secret", lambda d: d.append({"kind": "Secret", "metadata": {}, "data": {}})),
    ("check_secrets", "a password",
     lambda d: server(d)["env"].append({"name": "SOMEWHERE", "value": "postgresql://a:b@c/d"})),
    ("check_secrets", "a literal key",
     lambda d: server(d)["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"})),
    ("check_secrets", "a Secret that nobody makes",
     lambda d: both(d, lambda each: each["authOptions"].update(secretName="other"))),
    ("check_secrets", "no token", lambda d: both(d, lambda each: each["authOptions"].update(mode="disabled"))),
    ("check_ports", "MLflow's port",
     lambda d: manifests.settings(d).update(MLFLOW_TRACKING_URI="http://crowddist-mlflow:5001")),
    ("check_ports", "MLflow's name", lambda d: manifests.called(d, "Service", "crowddist-mlflow")["metadata"].update(
        name="mlflow")),
    ("check_ports", "a policy's port", lambda d: policy(d, "mlflow")["ingress"][0]["ports"][0].update(port=80)),
    ("check_ports", "the dashboard's port", lambda d: policy(d, "head")["ingress"][0]["ports"][0].update(port=8266)),
    ("check_labels", "a policy for nobody",
     lambda d: policy(d, "mlflow")["podSelector"]["matchLabels"].update({"crowddist/role": "mlfow"})),
    ("check_labels", "a peer that is nobody",
     lambda d: policy(d, "ray")["egress"][1]["to"][0]["podSelector"]["matchLabels"].update(a="b")),
    ("check_labels", "all is allowed", lambda d: policy(d, "ray")["egress"].append({})),
    ("check_labels", "everybody on every port", lambda d: policy(d, "s3")["egress"][0].pop("ports")),
    ("check_labels", "nothing is denied",
     lambda d: d.remove(next(each for each in d if each["metadata"]["name"] == "deny-all"))),
    ("check_labels", "a budget for nobody",
     lambda d: of_kind(d, "PodDisruptionBudget")[0]["spec"]["selector"]["matchLabels"].update(a="b")),
    ("check_labels", "a pod without a name",
     lambda d: templates(d)[0]["metadata"]["labels"].pop("app.kubernetes.io/part-of")),
    ("check_security", "a token for all", lambda d: templates(d)[1]["spec"].update(automountServiceAccountToken=True)),
    ("check_security", "no account", lambda d: templates(d)[1]["spec"].update(serviceAccountName="other")),
    ("check_security", "root", lambda d: templates(d)[0]["spec"]["securityContext"].update(runAsNonRoot=False)),
    ("check_security", "a writable image",
     lambda d: containers(d)[0]["securityContext"].update(readOnlyRootFilesystem=False)),
    ("check_security", "a capability",
     lambda d: server(d)["securityContext"]["capabilities"].update(add=["NET_ADMIN"])),
    ("check_security", "an autoscaler with more rights",
     lambda d: clusters(d)[1]["autoscalerOptions"].pop("securityContext")),
    ("check_security", "no probe", lambda d: containers(d)[1].pop("livenessProbe")),
    ("check_room", "memory promised twice", lambda d: server(d)["resources"]["requests"].update(memory="1Gi")),
    ("check_room", "too little shared memory",
     lambda d: both(d, lambda each: each["headGroupSpec"]["rayStartParams"].update(
        {"object-store-memory": str(2**31)}))),
    ("check_room", "a cache beyond its folder",
     lambda d: manifests.settings(d).update(CROWDDIST_CACHE_BYTES=str(2**40))),
    ("check_the_service", "an option that is none", lambda d: counting(d)["args"].append("--replicas=2")),
    ("check_the_service", "open to all", lambda d: counting(d)["env"].pop()),
    ("check_the_service", "another port", lambda d: counting(d)["ports"][0].update(containerPort=8001)),
    ("check_the_service", "a policy's port", lambda d: policy(d, "serve")["ingress"][0]["ports"][0].update(port=80)),
    ("check_the_service", "a probe that asks for a token",
     lambda d: counting(d)["livenessProbe"]["httpGet"].update(path="/metrics")),
    ("check_the_service", "killed while it answers", lambda d: counting(d)["args"].__setitem__(3, "--timeout=120")),
    ("check_the_service", "images beyond its memory", lambda d: counting(d)["args"].append("--queue=64")),
    ("check_room", "a mount without a volume",
     lambda d: server(d)["volumeMounts"].append({"name": "data", "mountPath": "/data"})),
)


@pytest.mark.parametrize(("check", "what", "damage"), BREAKS, ids=[f"{check}-{what}" for check, what, _ in BREAKS])
def test_each_check_can_fail(documents: list[Document], check: str, what: str,
                             damage: Callable[[list[Document]], Any]) -> None:
    broken = copy.deepcopy(documents)
    damage(broken)
    assert broken != documents, what
    with pytest.raises((AssertionError, KeyError, ValueError, SystemExit)):
        getattr(manifests, check)(broken)
