"""The manifests of k8s/ on a real API server: kube-apiserver on etcd, both on loopback, with nothing else of a cluster.

    cluster.py KUBE-APISERVER KUBECTL HELM CRDS

Each overlay, the chart in each mode, the monitoring and the injection are applied, their difference to what the server
stores is empty, and deleting them leaves everything else as it was. `DOORWARD_KUBERNETES=1.36,1.37` has the server
emulate each of these versions; without it, it is the newest.
Every pod that they make is admitted under the Pod Security standard `restricted`; the injection policy makes of a
pod what the component `sidecar` makes. The manifests for meshes pass the CEL rules of their own definitions.
"""

import contextlib
import copy
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time

import yaml

K8S = pathlib.Path(__file__).resolve().parents[2] / "k8s"
VERSIONS = os.environ.get("DOORWARD_KUBERNETES", "1.37").split(",")
PATIENCE = 120  # seconds, for what takes some


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def until(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"error: {what}: not after {PATIENCE} s")
        time.sleep(0.1)


class Cluster:
    """A running API server, and the commands that ask it."""

    def __init__(self, folder, kubectl, helm, port, token):
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "test",
                  "clusters": [{"name": "test", "cluster": {"server": f"https://127.0.0.1:{port}",
                                                            "certificate-authority": f"{folder}/apiserver.crt"}}],
                  "users": [{"name": "admin", "user": {"token": token}}],
                  "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}]}
        pathlib.Path(folder, "kubeconfig").write_text(json.dumps(config))
        self.env = {"PATH": os.environ["PATH"], "HOME": folder, "KUBECONFIG": f"{folder}/kubeconfig"}
        self.programs = {"kubectl": kubectl, "helm": helm}

    def run(self, program, *command, stdin=None, code=0, warned=False):
        """Runs a command that ends with `code` and warns of nothing, unless it may; returns what it prints."""
        result = subprocess.run([self.programs[program], *map(str, command)], input=stdin, capture_output=True,
                                text=True, env=self.env, check=False)
        if result.returncode != code or "Warning:" in result.stderr and not warned:
            sys.exit(f"error: {program} {' '.join(map(str, command))}: {result.returncode}, not {code}\n"
                     f"{result.stdout[-4000:]}{result.stderr}")
        return result.stdout if code == 0 else result.stderr

    def kubectl(self, *command, **more):
        return self.run("kubectl", *command, **more)

    def ready(self):
        command = [self.programs["kubectl"], "get", "--raw", "/readyz"]
        return subprocess.run(command, capture_output=True, env=self.env, check=False).returncode == 0

    def objects(self):
        """Everything stored: its uid, and what it is apart from its status."""
        kinds = set(self.kubectl("api-resources", "--verbs=list", "-o", "name").split())
        # The server's own later writes, and its warnings.
        kinds -= {"events", "events.events.k8s.io", "leases.coordination.k8s.io", "componentstatuses", "endpoints"}
        found = {}
        for item in json.loads(self.kubectl("get", ",".join(sorted(kinds)), "-A", "-o", "json"))["items"]:
            meta = item.pop("metadata")
            item.pop("status", None)
            found[item["apiVersion"], item["kind"], meta.get("namespace"), meta["name"]] = meta["uid"], json.dumps(item)
        return found

    @contextlib.contextmanager
    def nothing_left(self, what):
        """After the block everything is there that was there before it, the same object and unchanged, and no more."""
        before = self.objects()
        yield
        after = self.objects()
        for key in sorted(before.keys() | after.keys(), key=str):
            if before.get(key) != after.get(key):
                sys.exit(f"error: {what}: {key} was {before.get(key)}, is {after.get(key)}")

    def admit(self, template, namespace="shop"):
        """The pod that a controller would make of a template, as the server would store it."""
        meta = {"name": "pod", "namespace": namespace, "labels": template["metadata"].get("labels", {})}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}
        return json.loads(self.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(pod)))["spec"]

    def admit_all(self, manifests, namespace):
        for item in filter(None, yaml.safe_load_all(manifests)):
            template = item if item["kind"] == "Pod" else item.get("spec", {}).get("template")
            if template:
                claims = [claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", [])]
                template["spec"].setdefault("volumes", []).extend(
                    {"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims)
                self.admit(template, namespace)

    def controllers(self):
        """What they would do: a namespace has its service account, and one that is deleted goes."""
        for namespace in json.loads(self.kubectl("get", "namespaces", "-o", "json"))["items"]:
            name = namespace["metadata"]["name"]
            account = ["-n", name, "serviceaccount", "default", "--ignore-not-found"]
            if "deletionTimestamp" in namespace["metadata"]:
                self.kubectl("delete", *account)
                namespace["spec"] = {}
                self.kubectl("replace", "--raw", f"/api/v1/namespaces/{name}/finalize", "-f", "-", stdin=json.dumps(namespace))
            elif not self.kubectl("get", *account):
                self.kubectl("-n", name, "create", "serviceaccount", "default")


@contextlib.contextmanager
def cluster(apiserver, kubectl, helm, version):
    with tempfile.TemporaryDirectory(prefix="doorward-cluster.") as folder, contextlib.ExitStack() as stack:
        def start(name, *command):
            log = stack.enter_context(open(f"{folder}/{name}.log", "wb"))
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        etcd, port, token = free_port(), free_port(), secrets.token_hex(16)
        etcd_process = start("etcd", "etcd", "--data-dir", f"{folder}/etcd", "--listen-peer-urls", "http://127.0.0.1:0",
                             "--listen-client-urls", f"http://127.0.0.1:{etcd}",
                             "--advertise-client-urls", f"http://127.0.0.1:{etcd}")
        subprocess.run(["openssl", "genrsa", "-out", f"{folder}/sa.key", "2048"], check=True, capture_output=True)
        pathlib.Path(folder, "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
        server = start("apiserver", apiserver, f"--etcd-servers=http://127.0.0.1:{etcd}", "--bind-address=127.0.0.1",
                       "--advertise-address=127.0.0.1", f"--secure-port={port}", f"--cert-dir={folder}",
                       "--service-account-issuer=https://kubernetes.default.svc",
                       f"--service-account-signing-key-file={folder}/sa.key", f"--service-account-key-file={folder}/sa.key",
                       f"--token-auth-file={folder}/tokens.csv", "--authorization-mode=RBAC",
                       "--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none",
                       f"--emulated-version={version}")
        here = Cluster(folder, kubectl, helm, port, token)

        def up():
            for process in etcd_process, server:
                if process.poll() is not None:
                    log = pathlib.Path(folder, "etcd.log" if process is etcd_process else "apiserver.log").read_text()
                    sys.exit(f"error: {process.args[0]} ended at its start:\n{log[-4000:]}")
            return here.ready()

        until("the API server is ready", up)
        yield here


def prepare(here):
    """A namespace in which others are at work, with the shared Redis."""
    here.kubectl("apply", "-f", K8S / "namespace.yaml")
    here.controllers()
    made = subprocess.run([K8S / "redis/new-secret.sh"], check=True, capture_output=True, text=True).stdout
    here.kubectl("-n", "shop", "create", "-f", "-", stdin=made)
    here.kubectl("apply", "-k", K8S / "overlays/redis")
    here.admit_all(here.kubectl("kustomize", K8S / "overlays/redis"), "shop")
    here.kubectl("-n", "shop", "create", "configmap", "theirs", "--from-literal=a=b")
    here.kubectl("create", "priorityclass", "high", "--value=1000")


def overlays(here):
    """What is applied is what is stored, by either way of applying."""
    for folder, namespace in [("overlays/shop", "shop"), ("overlays/gateway", "shop"),
                              ("overlays/gateway-module", "shop"), ("overlays/node", "shop"), ("overlays/injected", "shop"), ("injection", "shop"), ("monitoring/dashboard", "shop"),
                              ("overlays/demo", "doorward-demo")]:
        for way in [], ["--server-side"]:
            apply(here, folder, namespace, way)
    here.kubectl("diff", "-k", K8S / "overlays/redis")


def apply(here, folder, namespace, way):
    # Resources without a namespace go into that of the pods.
    scope = ["-n", namespace] if folder.startswith("monitoring") else []
    with here.nothing_left(f"delete -k {folder}"):
        here.kubectl("apply", *way, *scope, "-k", K8S / folder)
        here.kubectl("diff", *way, *scope, "-k", K8S / folder)
        here.controllers()
        here.admit_all(here.kubectl("kustomize", K8S / folder), namespace)
        here.kubectl("delete", "--wait=false", *scope, "-k", K8S / folder)
        here.controllers()


def chart(here):
    everything = ["autoscaling.enabled=true", "priorityClassName=high", f"image.digest=sha256:{'0' * 64}",
                  "imagePullSecrets[0].name=pull", "nodeSelector.disk=fast", "podAnnotations.a=b", "podLabels.c=d"]
    everything = [part for setting in everything for part in ("--set", setting)]
    for mode in "gateway", "node", "injection", "configuration":
        values = ["-n", "shop", "-f", K8S / f"chart/ci/{mode}.yaml"]
        with here.nothing_left(f"helm uninstall, mode {mode}"):
            here.run("helm", "install", "doorward", K8S / "chart", *values)
            for more in [], everything:
                if more:
                    here.run("helm", "upgrade", "doorward", K8S / "chart", *values, *more)
                manifest = here.run("helm", "get", "manifest", "doorward", "-n", "shop")
                here.kubectl("diff", "--server-side", "--force-conflicts", "-f", "-", stdin=manifest)
                here.admit_all(manifest + here.run("helm", "get", "hooks", "doorward", "-n", "shop"), "shop")
            here.run("helm", "uninstall", "doorward", "-n", "shop")


def injection(here):
    """The policy makes of a pod what the component makes, and leaves alone what it must."""
    (template,) = [item["spec"]["template"] for item in yaml.safe_load_all(here.kubectl("kustomize", K8S / "overlays/shop"))
                   if item["kind"] == "Deployment" and item["metadata"]["name"] == "a"]
    guarded = copy.deepcopy(template)
    for volume in guarded["spec"]["volumes"]:
        if volume["name"] == "envoy-config":
            volume["configMap"]["name"] = "envoy"  # Without a hash, for the policy.
    bare = copy.deepcopy(template)
    for ours in "initContainers", "volumes":
        del bare["spec"][ours]
    own = copy.deepcopy(bare)
    own["spec"]["initContainers"] = [{**bare["spec"]["containers"][0], "name": "migrate"}]
    for left_out in "readinessProbe", "lifecycle", "ports":
        own["spec"]["initContainers"][0].pop(left_out)
    own["spec"]["volumes"] = [{"name": "data", "emptyDir": {}}]
    both = copy.deepcopy(guarded)
    for ours in "initContainers", "volumes":
        both["spec"][ours] += own["spec"][ours]
    unlabelled = copy.deepcopy(bare)
    del unlabelled["metadata"]["labels"]["doorward"]

    def same(got, wanted, what):
        for spec in got, wanted:
            spec["volumes"] = sorted(spec.get("volumes", []), key=lambda volume: volume["name"])
        if got != wanted:
            sys.exit(f"error: {what}:\n  {json.dumps(got, sort_keys=True)}\n  not {json.dumps(wanted, sort_keys=True)}")

    before = {name: here.admit(template) for name, template in
              {"bare": bare, "unlabelled": unlabelled, "guarded": guarded, "both": both}.items()}
    here.kubectl("apply", "-k", K8S / "injection")
    until("the policy is in force", lambda: here.admit(bare) != before["bare"])
    same(here.admit(bare), copy.deepcopy(before["guarded"]), "a pod with nothing of its own")
    same(here.admit(own), before["both"], "a pod with its own containers and volumes")
    same(here.admit(guarded), before["guarded"], "a pod that has Doorward already")
    same(here.admit(unlabelled), before["unlabelled"], "a pod without the label")
    here.kubectl("delete", "-k", K8S / "injection")


def operator(here, crds):
    """`monitoring` without the operator's definitions, and with them; then the samples of other projects."""
    with here.nothing_left("what needs the operator, without it"):
        said = here.kubectl("apply", "-n", "shop", "-k", K8S / "monitoring", code=1)
        if "ensure CRDs are installed first" not in said:
            sys.exit(f"error: monitoring without its definitions: {said}")
        monitors = ["--set", "podMonitor.enabled=true", "--set", "serviceMonitor.enabled=true"]
        monitors = ["doorward", K8S / "chart", "-n", "shop", "-f", K8S / "chart/ci/gateway.yaml", *monitors]
        said = here.run("helm", "install", *monitors, code=1)
        if "ensure CRDs are installed first" not in said:
            sys.exit(f"error: the chart's monitors without their definitions: {said}")
    definitions = sorted(pathlib.Path(crds).glob("*/*.y*ml"))
    if not any("podmonitors" in file.name for file in definitions):
        print("skipped: monitoring with the operator's definitions, which could not be fetched")
        return
    for file in definitions:
        here.kubectl("apply", "--server-side", "-f", file, warned=True)
    here.kubectl("wait", "--for=condition=established", "crd", "--all", f"--timeout={PATIENCE}s")
    for way in [], ["--server-side"]:
        apply(here, "monitoring", "shop", way)
    with here.nothing_left("helm uninstall, with monitors"):
        here.run("helm", "install", *monitors)
        here.run("helm", "uninstall", "doorward", "-n", "shop")
    here.kubectl("create", "namespace", "istio-system")
    for file in sorted(K8S.glob("meshes/*.yaml")):
        if file.name != "kgateway.yaml":  # Its definitions are in no registry here.
            here.kubectl("apply", "--dry-run=server", "-f", file)


def main(apiserver, kubectl, helm, crds):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: terminated"))
    for version in VERSIONS:
        began = time.monotonic()
        with cluster(apiserver, kubectl, helm, version) as here:
            prepare(here)
            overlays(here)
            chart(here)
            injection(here)
            operator(here, crds)
        print(f"Kubernetes {version}: overlays, chart, injection and monitoring are applied and deleted on an API server"
              f" ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main(*sys.argv[1:])
