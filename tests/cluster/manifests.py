"""What the Kubernetes manifests must agree on, each as a function that raises AssertionError. A document is a dict, as
YAML reads it.
"""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro

from crowddist.cli import serve
from crowddist.service.app import PATHS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "cluster" / "kuberay"
Document = dict[str, Any]
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def size(quantity: str) -> int:
    """Bytes of a quantity such as 6Gi."""
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    """The documents of a kind, at least one."""
    found = [document for document in documents if document["kind"] == kind]
    assert found, f"no {kind}"
    return found


def clusters(documents: list[Document]) -> list[Document]:
    """The specifications of the standing cluster and of the job's own."""
    return [each["spec"] for each in of_kind(documents, "RayCluster")] + [each["spec"]["rayClusterSpec"]
                                                                          for each in of_kind(documents, "RayJob")]


def templates(documents: list[Document]) -> list[Document]:
    """The templates of all pods."""
    found = [group["template"] for cluster in clusters(documents)
             for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    return found + [each["spec"]["template"] for each in of_kind(documents, "Deployment")]


def containers(documents: list[Document]) -> list[Document]:
    """All containers, without the autoscaler's, which KubeRay makes."""
    return [each for template in templates(documents)
            for each in (*template["spec"].get("initContainers", ()), *template["spec"]["containers"])]


def called(documents: list[Document], kind: str, name: str) -> Document:
    """The document of a kind and a name."""
    (found,) = [each for each in of_kind(documents, kind) if each["metadata"]["name"] == name]
    return found


def deployed(documents: list[Document], name: str) -> Any:
    """The one container of a Deployment."""
    (found,) = called(documents, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    return found


def entrypoint(documents: list[Document]) -> list[str]:
    """The words of the job's command."""
    (job,) = of_kind(documents, "RayJob")
    return shlex.split(job["spec"]["entrypoint"])


def option(words: list[str], name: str) -> str:
    """The value of an option of a command."""
    return words[words.index(name) + 1]


def strings(node: Any) -> Iterator[str]:
    """All strings in a document, names of fields excepted."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from strings(child)


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a Kubernetes selector takes something of these labels."""
    for rule in selector.get("matchExpressions", ()):
        assert rule["operator"] == "In", rule
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def settings(documents: list[Document]) -> dict[str, str]:
    """What the ConfigMap holds."""
    (found,) = of_kind(documents, "ConfigMap")
    return found["data"]


def check_versions(documents: list[Document]) -> None:
    """One image everywhere, of this version; one Ray, that of pyproject.toml and the lock."""
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"', project, re.M)
    ray = re.search(r'"ray\[.*\]==(.+)"', project)
    assert version and ray
    assert f'__version__ = "{version[1]}"' in (ROOT / "crowddist/__init__.py").read_text()
    assert {each["image"] for each in containers(documents)} == {f"crowddist:{version[1]}"}
    assert {each["rayVersion"] for each in clusters(documents)} == {ray[1]}
    assert re.search(rf"^ray(\[.*\])?=={re.escape(ray[1])} ", (ROOT / "requirements.lock").read_text(), re.M)
    for cluster in clusters(documents):
        assert "image" not in cluster["autoscalerOptions"], "the autoscaler's image is the head's"


def check_the_image(documents: list[Document]) -> None:
    """What the manifests take for granted of the image is in the Dockerfile."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    uid = re.search(r"useradd .*--uid (\d+)", dockerfile)
    jobs = re.search(r"^COPY .*\bjobs (/\S+)", dockerfile, re.M)
    assert uid and jobs
    for template in templates(documents):
        assert template["spec"]["securityContext"]["runAsUser"] == int(uid[1])
    program = entrypoint(documents)[1]
    assert program.startswith(jobs[1] + "/") and (ROOT / "jobs" / program.removeprefix(jobs[1] + "/")).is_file()
    for name in ("crowddist-mlflow", "crowddist-serve"):
        assert deployed(documents, name)["command"][0] == "tini" and "tini" in dockerfile
    assert "psycopg-binary==" in (ROOT / "requirements.lock").read_text(), "MLflow's server cannot reach PostgreSQL"


def check_the_run(documents: list[Document]) -> None:
    """Every attempt is the same run, on storage that outlives its cluster, and tries again."""
    (job,) = of_kind(documents, "RayJob")
    words, spec = entrypoint(documents), job["spec"]
    assert option(words, "--run-name") == job["metadata"]["name"]
    assert not re.search(r"[$`]", option(words, "--run-name"))
    known = settings(documents)
    for name in ("storage", "target"):
        assert known[option(words, f"--{name}").removeprefix("$")].startswith("s3://")
    assert spec["backoffLimit"] > 0 and "jobId" not in spec and "clusterSelector" not in spec
    assert (spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] > 0
            and spec["activeDeadlineSeconds"] > 0)
    assert ("submitterPodTemplate" not in spec
            and spec["submissionMode"] == "HTTPMode"), "a submitter's pod would need the settings of all others"


def check_the_clusters(documents: list[Document]) -> None:
    """The job's cluster is as the standing one; its workers are there when it begins, and the head has none."""
    standing, own = clusters(documents)
    assert standing == own
    (autoscaling,) = {(own["enableInTreeAutoscaling"], own["autoscalerOptions"]["version"])}
    assert autoscaling == (True, "v2")
    assert own["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    gpus, cpus = 0, 0
    for group in own["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        resources, start = group["template"]["spec"]["containers"][0]["resources"], group["rayStartParams"]
        assert start.get("num-gpus", "0") == resources["limits"].get("nvidia.com/gpu", "0")
        assert start["num-cpus"] == resources["requests"]["cpu"]
        cpus += group["minReplicas"] * int(start["num-cpus"])
        gpus += group["minReplicas"] * int(start.get("num-gpus", "0"))
        if "num-gpus" in start:
            assert any(each["key"] == "nvidia.com/gpu" for each in group["template"]["spec"]["tolerations"])
    wanted = int(option(entrypoint(documents), "--num-workers"))
    assert cpus >= wanted
    assert (gpus >= wanted or not any("num-gpus" in group["rayStartParams"]
                                      for group in own["workerGroupSpecs"])), "training would run on CPUs"


def check_secrets(documents: list[Document]) -> None:
    """Secrets are named, never held; the README makes each that is named, and the examples are empty."""
    assert not [each for each in documents if each["kind"] == "Secret"]
    named: set[str] = set()
    readme = (FOLDER / "README.md").read_text()
    for cluster in clusters(documents):
        assert cluster["authOptions"]["mode"] == "token"
        named.add(cluster["authOptions"]["secretName"])
    for container in containers(documents):
        named |= {each["secretRef"]["name"] for each in container.get("envFrom", ()) if "secretRef" in each}
        for variable in container.get("env", ()):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                named.add(reference["name"])
                assert (f"\n{reference['key']}=\n" in (FOLDER / "mlflow.example.env").read_text()
                        or f"{reference['name']} --from-literal={reference['key']}=" in readme)
            assert ("value" not in variable
                    or not re.search("KEY|SECRET|TOKEN|PASSWORD|URI", variable["name"])), variable["name"]
    made = dict(re.findall(r"create secret generic (\S+) (--from-\S+)", readme))
    assert set(made) == named, (set(made), named)
    assert any("--from-literal=auth_token=" in source for name, source in made.items() if name == "crowddist-ray")
    for example in FOLDER.glob("*.env"):
        if example.name.endswith(".example.env"):
            assert not re.search(r"^[^#\n]+=.+$", example.read_text(), re.M), f"{example.name} holds a value"
    for text in strings(documents):
        assert not re.search(r"://[^/\s]*:[^/\s]*@|AKIA[A-Z0-9]{16}|BEGIN .*PRIVATE KEY",
                             text), "a document holds a secret"
    assert not [key for key in settings(documents) if re.search("SECRET|TOKEN|PASSWORD|ACCESS_KEY", key)]


def check_ports(documents: list[Document]) -> None:
    """MLflow is asked at the name and port where it is, under a name that it answers to, and all ports of Ray's are
    those it has.
    """
    service, container = called(documents, "Service", "crowddist-mlflow"), deployed(documents, "crowddist-mlflow")
    port, name, space = service[
        "spec"]["ports"][0]["port"], service["metadata"]["name"], service["metadata"]["namespace"]
    assert settings(documents)["MLFLOW_TRACKING_URI"] == f"http://{name}:{port}"
    assert f"--port={port}" in container["args"]
    assert [(each["name"], each["containerPort"])
            for each in container["ports"]] == [(service["spec"]["ports"][0]["targetPort"], port)]
    hosts = next(each for each in container["args"]
                 if each.startswith("--allowed-hosts=")).removeprefix("--allowed-hosts=").split(",")
    assert {f"{name}:{port}", f"{name}.{space}.svc.cluster.local:{port}"} <= set(hosts) and "*" not in hosts
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(documents, "NetworkPolicy")}
    assert [each["ports"][0]["port"] for each in policies["ray"]["egress"] if "ports" in each] == [port]
    assert [each["ports"][0]["port"] for each in policies["mlflow"]["ingress"]] == [port]
    for cluster in clusters(documents):
        head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
        ports = {each["name"]: each["containerPort"] for each in head["ports"]}
        assert ports == {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
        assert [each["ports"][0]["port"] for each in policies["head"]["ingress"]] == [ports["dashboard"]]
        assert {head[probe]["httpGet"]["port"] for probe in PROBES} == {ports["dashboard"]}
        assert cluster["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "0.0.0.0"
        for group in cluster["workerGroupSpecs"]:
            assert {group["template"]["spec"]["containers"][0][probe]["httpGet"]["port"] for probe in PROBES} == {52365}


def check_the_service(documents: list[Document]) -> None:
    """Its command is understood, what asks it finds it, requests that run may end, and memory holds the images."""
    container = deployed(documents, "crowddist-serve")
    words = [word.replace("$(CROWDDIST_MODEL)", settings(documents)["CROWDDIST_MODEL"]) for word in container["args"]]
    assert container["command"][2:] == ["crowddist", "serve"]
    arguments = tyro.cli(serve.Arguments, args=words)
    assert arguments.model == settings(documents)["CROWDDIST_MODEL"] and arguments.host == "0.0.0.0"
    assert "CROWDDIST_TOKEN" in {each["name"] for each in container["env"]}
    assert {"configMapRef": {"name": "crowddist"}} in container["envFrom"], "the counter's place is not known"
    (port,) = container["ports"]
    (seen,) = called(documents, "Service", "crowddist-serve")["spec"]["ports"]
    assert (arguments.port, port["name"]) == (port["containerPort"], seen["targetPort"]) and seen["port"] == 8000
    policy = called(documents, "NetworkPolicy", "serve")["spec"]
    assert [each["ports"][0]["port"] for each in policy["ingress"]] == [arguments.port]
    assert {container[probe]["httpGet"]["path"] for probe in PROBES} == {"/health", "/ready"} < set(PATHS)
    assert {container[probe]["httpGet"]["port"] for probe in PROBES} == {port["name"]}
    limits = arguments.limits
    pod = called(documents, "Deployment", "crowddist-serve")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > limits.timeout + 5
    # What is received, and the pixels of what waits or is counted.
    images = limits.queue * (limits.max_bytes + 3 * limits.max_pixels)
    assert images < size(container["resources"]["limits"]["memory"]) // 2


PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def check_labels(documents: list[Document]) -> None:
    """Whatever selects pods selects some; nothing is open to a pod by mistake, and none is left without a policy of its
    own.
    """
    labels = [each["metadata"]["labels"] for each in templates(documents)]
    policies = of_kind(documents, "NetworkPolicy")
    selectors = [each["spec"]["podSelector"] for each in policies] + [each["spec"]["selector"]
                                                                      for each in of_kind(documents,
                                                                                          "PodDisruptionBudget")]
    selectors += [{"matchLabels": each["spec"]["selector"]} for each in of_kind(documents, "Service")]
    for policy in policies:
        for rule in (*policy["spec"].get("ingress", ()), *policy["spec"].get("egress", ())):
            peers = (*rule.get("from", ()), *rule.get("to", ()))
            assert rule.get("ports") or (peers and all("podSelector" in each for each in peers)), f"{rule} is open"
            selectors += [each["podSelector"] for each in peers if "podSelector" in each]
    for selector in selectors:
        assert any(selects(selector, each) for each in labels), f"{selector} selects nothing"
    denials = [each["spec"] for each in policies if not each["spec"]["podSelector"]]
    assert len(denials) == 1
    deny = denials[0]
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"} and "ingress" not in deny and "egress" not in deny
    for each in labels:
        own = [policy for policy in policies if policy["spec"]["podSelector"]
               and selects(policy["spec"]["podSelector"], each)]
        assert {"dns", "s3"} < {policy["metadata"]["name"] for policy in own}, each
    for server in of_kind(documents, "Deployment"):
        assert selects(server["spec"]["selector"], server["spec"]["template"]["metadata"]["labels"])
    for document in documents:
        assert document["metadata"]["labels"]["app.kubernetes.io/component"] in ("platform", "cluster", "job", "serve")
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == of_kind(documents, "Namespace")[0]["metadata"]["name"]


def check_security(documents: list[Document]) -> None:
    """No container is root, writes to its image, gets more rights, or finds a token of Kubernetes."""
    accounts = {each["metadata"]["name"]: each for each in of_kind(documents, "ServiceAccount")}
    for template in templates(documents):
        spec = template["spec"]
        assert (spec["automountServiceAccountToken"] is False
                and accounts[spec["serviceAccountName"]]["automountServiceAccountToken"] is False)
        context = spec["securityContext"]
        assert (context["runAsNonRoot"] is True and context["runAsUser"] > 0
                and context["seccompProfile"] == {"type": "RuntimeDefault"})
        assert (not set(spec) & {"hostNetwork", "hostPID", "hostIPC"}
                and not [each for each in spec["volumes"] if "hostPath" in each])
    for container in (*containers(documents), *(each["autoscalerOptions"] for each in clusters(documents))):
        context = container["securityContext"]
        assert (context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
                and context["runAsNonRoot"] is True)
        assert context["capabilities"] == {"drop": ["ALL"]} and context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "privileged" not in context
        assert "/tmp" in {each["mountPath"] for each in container["volumeMounts"]}
    for container in containers(documents):
        assert "kubernetes" not in {each["name"]
                                    for each in container["volumeMounts"]}, "the autoscaler alone talks to Kubernetes"
        assert all(probe in container for probe in PROBES)
    assert of_kind(documents,
                   "Namespace")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def check_room(documents: list[Document]) -> None:
    """Memory asked for is memory had; shared memory holds the object store, and the disk what is written."""
    groups = [group for cluster in clusters(documents)
              for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    for container in (*containers(documents), *(each["autoscalerOptions"] for each in clusters(documents))):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert requests["memory"] == limits["memory"] and requests["cpu"]
        assert requests.get("ephemeral-storage") == limits.get("ephemeral-storage")
    for template in templates(documents):
        volumes = {each["name"] for each in template["spec"]["volumes"]}
        assert {mount["name"] for container in template["spec"]["containers"]
                for mount in container["volumeMounts"]} <= volumes
    for group in groups:
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        folders = {each["name"]: each["emptyDir"] for each in spec["volumes"] if "emptyDir" in each}
        places = {each["mountPath"]: folders[each["name"]] for each in container["volumeMounts"]}
        assert places["/dev/shm"]["medium"] == "Memory"
        store, shared = int(group["rayStartParams"]["object-store-memory"]), size(places["/dev/shm"]["sizeLimit"])
        assert store < shared < size(container["resources"]["limits"]["memory"]) // 2
        known = settings(documents)
        assert int(known["CROWDDIST_CACHE_BYTES"]) < size(places[known["CROWDDIST_CACHE"]]["sizeLimit"])
        assert known["HOME"] in places
        disk = sum(size(each["sizeLimit"]) for each in folders.values() if "medium" not in each)
        assert disk <= size(container["resources"]["limits"]["ephemeral-storage"])


CHECKS = (
    check_versions, check_the_image, check_the_run, check_the_clusters, check_secrets, check_ports, check_labels,
    check_security, check_room, check_the_service,
)


def pods_as_a_cluster(documents: list[Document], name: str) -> Document:
    """A cluster whose head is the pod of a Deployment: KubeRay's schema holds that of pods, which judges it so."""
    cluster = copy.deepcopy(of_kind(documents, "RayCluster")[0])
    cluster["spec"]["headGroupSpec"]["template"] = copy.deepcopy(
        called(documents, "Deployment", name)["spec"]["template"])
    return cluster
