"""The Helm chart: its schema has Doorward's own for `config`, what it renders is in substance what the overlays
build, and Doorward and Envoy accept the files that it makes.

    chart.py HELM KUBECTL DOORWARD OUT      checks; leaves the rendered manifests in OUT for schemas.py
    chart.py --write                        writes k8s/chart/values.schema.json from doorward.schema.json

The overlays of kustomize are the source: the chart takes envoy.yaml and the injection policy from them by links.
"""

import copy
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "k8s/chart"
MODES = ["gateway", "node", "injection", "configuration"]
faults = []


def fault(text):
    faults.append(text)


def values_schema():
    """The schema of values.yaml: each value has the type of its default, and `config` is Doorward's schema."""
    doorward = json.loads((ROOT / "doorward.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    open_maps = {"resources", "podLabels", "podAnnotations", "nodeSelector", "affinity", "labels", "annotations",
                 "behind"}
    names = {str: "string", bool: "boolean", int: "integer"}

    def of(name, value, path):
        if isinstance(value, dict):
            if name in open_maps or path in ("networkPolicy.redis",):
                return {"type": "object"}
            members = {key: of(key, item, f"{path}.{key}".strip(".")) for key, item in value.items()}
            return {"type": "object", "additionalProperties": False, "properties": members}
        if isinstance(value, list):
            return {"type": "array"}
        return {"type": names[type(value)]} | ({"minimum": 0} if type(value) is int else {})

    schema = of("", values, "")
    properties = schema["properties"]
    properties["mode"] = {"enum": MODES}
    properties["global"] = {"type": "object"}
    properties["podDisruptionBudget"]["properties"]["maxUnavailable"] = {"type": ["integer", "string"]}
    properties["gateway"]["properties"]["routes"] = {"type": "array", "items": {
        "type": "object", "additionalProperties": False, "required": ["prefix", "service", "port"],
        "properties": {"prefix": {"type": "string", "pattern": "^/"}, "service": {"type": "string"},
                       "port": {"type": "integer", "minimum": 1, "maximum": 65535}}}}
    digest = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
    properties["image"]["properties"]["digest"] = properties["envoy"]["properties"]["image"]["properties"]["digest"] = digest
    properties["config"] = {key: value for key, value in doorward.items() if key not in ("$schema", "$defs")}
    doorward["$defs"]["ListenFile"]["properties"]["http"]["type"] = "string"  # The probes ask it.
    return {"$schema": doorward["$schema"], "title": "Values of the chart", **schema, "$defs": doorward["$defs"]}


def written(schema):
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def run(*command, **more):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)


def render(helm, mode, *more):
    result = run(helm, "template", "doorward", CHART, "--namespace", "shop", "-f", CHART / f"ci/{mode}.yaml", *more)
    if result.returncode:
        sys.exit(f"error: helm template, mode {mode}: {result.stderr}")
    return [item for item in yaml.safe_load_all(result.stdout) if item]


def kustomize(kubectl, folder):
    result = run(kubectl, "kustomize", ROOT / "k8s" / folder)
    result.check_returncode()
    return [item for item in yaml.safe_load_all(result.stdout) if item]


# Resources with other names in the overlays than in a release `doorward` of the chart.
NAMES = {
    "gateway": {"doorward-gateway": "gateway", "doorward-behind": "behind-gateway", "doorward-envoy": "envoy"},
    "node": {},
    "injection": {},
}
SELECTED = {"gateway": {"app": "gateway"}, "node": {"app": "doorward-node"}}


def plain(item, mode):
    """An object without what differs on purpose: labels, hashes of names, the policy's name, how pods are selected."""
    item = copy.deepcopy(item)
    names = NAMES[mode]
    text = json.dumps(item)
    text = re.sub(r'"envoy-[a-z0-9]{10}"', '"envoy"', text)
    for chart, overlay in names.items():
        text = text.replace(f'"{chart}"', f'"{overlay}"')
    item = json.loads(text)
    meta = item["metadata"]
    for key in ("labels", "annotations", "namespace"):
        meta.pop(key, None)
    if item["kind"] == "NetworkPolicy" and mode in ("gateway", "node") and meta["name"] == "doorward":
        meta["name"] = {"gateway": "gateway", "node": "doorward-node"}[mode]
    if item["kind"] == "ConfigMap":
        item["data"] = {name: yaml.safe_load(data) for name, data in item["data"].items()}
        if "envoy.yaml" in item["data"]:
            item["data"]["envoy.yaml"] = envoy_plain(item["data"]["envoy.yaml"])
    template = item.get("spec", {}).get("template", {})
    template.pop("metadata", None)
    pod = template.get("spec", {})
    for container in pod.get("initContainers", []) + pod.get("containers", []):
        container.pop("imagePullPolicy", None)
        container["volumeMounts"] = sorted(container["volumeMounts"], key=lambda mount: mount["name"])
    if "volumes" in pod:
        pod["volumes"] = sorted(pod["volumes"], key=lambda volume: volume["name"])
    return selected(item, mode)


def envoy_plain(envoy):
    """Clusters are named by what they lead to, and stand in any order."""
    clusters = envoy["static_resources"]["clusters"]
    text = json.dumps(envoy)
    text = re.sub(r'"service:([a-z]+):80"', r'"\1"', text)
    envoy = json.loads(text)
    envoy["static_resources"]["clusters"] = sorted(envoy["static_resources"]["clusters"], key=lambda one: one["name"])
    assert len(clusters) == len(envoy["static_resources"]["clusters"])
    return envoy


def selected(value, mode):
    """Selectors of our own pods, in the chart by the recommended labels."""
    if isinstance(value, list):
        return [selected(item, mode) for item in value]
    if isinstance(value, dict):
        if value.get("app.kubernetes.io/component") == mode or mode in SELECTED and value == SELECTED[mode]:
            return {"pods": "ours"}
        if value == {"doorward": "enabled"}:
            return {"pods": "ours"}
        return {key: selected(item, mode) for key, item in value.items()}
    return value


def differences(left, right, place=""):
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys()):
            yield from differences(left.get(key), right.get(key), f"{place}.{key}")
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, (one, other) in enumerate(zip(left, right)):
            yield from differences(one, other, f"{place}[{index}]")
    elif left != right:
        yield f"{place}: the chart has {left!r}, the overlay {right!r}"


def node_overlay(items):
    """The overlay `node` sets by the environment what the chart writes into the file, and has an Envoy's file too many."""
    items = [item for item in items if not (item["kind"] == "ConfigMap" and item["metadata"]["name"].startswith("envoy"))]
    (pods,) = (item for item in items if item["kind"] == "DaemonSet")
    env = pods["spec"]["template"]["spec"]["containers"][0]["env"]
    address = env.pop(next(index for index, entry in enumerate(env) if entry["name"] == "DOORWARD__LISTEN__CHECK"))
    (config,) = (item for item in items if item["kind"] == "ConfigMap" and item["metadata"]["name"] == "doorward")
    written = yaml.safe_load(config["data"]["doorward.yaml"])
    written["listen"]["check"] = address["value"]
    config["data"]["doorward.yaml"] = yaml.safe_dump(written)
    return items


def compare(mode, chart, overlay, fault=fault):
    def index(items):
        found = {}
        for item in items:
            item = plain(item, mode)
            found[item["kind"], item["metadata"]["name"]] = item
        return found

    chart = index(item for item in chart if "helm.sh/hook" not in item["metadata"].get("annotations", {}))
    overlay = index(overlay)
    for key in sorted(chart.keys() | overlay.keys()):
        if key not in chart or key not in overlay:
            fault(f"mode {mode}: {' '.join(key)} is in the {'chart' if key in chart else 'overlay'} only")
            continue
        for text in differences(chart[key], overlay[key]):
            fault(f"mode {mode}: {' '.join(key)}{text}")


def accepted(mode, items, doorward):
    """Doorward and every Envoy at hand take the files."""
    for item in items:
        for name, text in item.get("data", {}).items() if item["kind"] == "ConfigMap" else ():
            with tempfile.TemporaryDirectory() as folder:
                pathlib.Path(folder, "password").write_text("0123456789abcdef")
                file = pathlib.Path(folder, name)
                file.write_text(text.replace("/etc/doorward-redis", folder))
                if name == "doorward.yaml":
                    result = run(doorward, "validate", "--config", file)
                    if result.returncode:
                        fault(f"mode {mode}: doorward.yaml: {result.stderr}")
                for envoy in filter(None, [os.environ.get("ENVOY"), os.environ.get("ENVOY_OLDEST")]):
                    if name == "envoy.yaml":
                        result = run(envoy, "--mode", "validate", "-c", file)
                        if result.returncode:
                            fault(f"mode {mode}: envoy.yaml, {envoy}: {result.stderr}")


def refused(helm, mode, setting, expected):
    """A value that is wrong, and what helm must say of it."""
    result = run(helm, "template", "doorward", CHART, "-f", CHART / f"ci/{mode}.yaml", *setting)
    if result.returncode == 0 or expected not in result.stderr:
        fault(f"mode {mode}: {' '.join(setting)} is not refused with {expected!r}: {result.stderr}")


def found(items, kind, name, *path):
    """A part of an object; None where there is none."""
    part = next((item for item in items if (item["kind"], item["metadata"]["name"]) == (kind, name)), None)
    for step in path:
        part = part[step] if isinstance(part, list) else (part or {}).get(step)
    return part


# A value, and its effect on an object.
GATEWAY = ("Deployment", "doorward-gateway", "spec")
POD = (*GATEWAY, "template", "spec")
EFFECTS = [
    (["image.repository=a.test/d", f"image.digest=sha256:{'0' * 64}"], (*POD, "initContainers", 0, "image"), f"a.test/d@sha256:{'0' * 64}"),
    (["envoy.image.tag=v2"], (*POD, "containers", 0, "image"), "docker.io/envoyproxy/envoy:v2"),
    (["replicas=5"], (*GATEWAY, "replicas"), 5),
    (["autoscaling.enabled=true"], (*GATEWAY, "replicas"), None),
    (["autoscaling.enabled=true", "autoscaling.maxReplicas=7"], ("HorizontalPodAutoscaler", "doorward-gateway", "spec", "maxReplicas"), 7),
    (["podDisruptionBudget.maxUnavailable=25%"], ("PodDisruptionBudget", "doorward-gateway", "spec", "maxUnavailable"), "25%"),
    (["topologySpread=false"], (*POD, "topologySpreadConstraints"), None),
    (["networkPolicy.enabled=false"], ("NetworkPolicy", "doorward"), None),
    (["networkPolicy.redis=null", "networkPolicy.redisPort=6380"], ("NetworkPolicy", "doorward", "spec", "egress", 1), {"ports": [{"port": 6380}]}),
    (["podMonitor.enabled=true", "podMonitor.labels.team=a"], ("PodMonitor", "doorward", "metadata", "labels", "team"), "a"),
    (["serviceMonitor.enabled=true", "serviceMonitor.labels.team=a"], ("ServiceMonitor", "doorward", "metadata", "labels", "team"), "a"),
    (["redis.existingSecret=mine", "redis.passwordKey=pass"], (*POD, "volumes", 1, "secret"), {"secretName": "mine", "items": [{"key": "pass", "path": "password"}]}),
    (["redis.existingSecret="], (*POD, "volumes", 1, "name"), "doorward-socket"),
]


def effects(helm):
    for settings, path, wanted in EFFECTS:
        got = found(render(helm, "gateway", *[part for setting in settings for part in ("--set", setting)]), *path)
        if got != wanted:
            fault(f"{' '.join(settings)} makes {path} {got!r}, not {wanted!r}")
    address = "rediss://r.test:6380/0"
    file = found(render(helm, "gateway", "--set", f"redis.url={address}"), "ConfigMap", "doorward", "data", "doorward.yaml")
    if yaml.safe_load(file)["revocation"]["redis"]["url"] != address:
        fault(f"redis.url is not in doorward.yaml: {file}")


def check(helm, kubectl, doorward, out):
    if (CHART / "values.schema.json").read_text() != written(values_schema()):
        fault("k8s/chart/values.schema.json is not up to date: run tests/kubernetes/chart.py --write")
    for mode in MODES:
        result = run(helm, "lint", "--strict", CHART, "-f", CHART / f"ci/{mode}.yaml")
        if result.returncode:
            fault(f"mode {mode}: helm lint: {result.stdout}{result.stderr}")
        everything = ["podMonitor.enabled=true", "podMonitor.labels.team=a", "serviceMonitor.enabled=true",
                      "autoscaling.enabled=true", "priorityClassName=high", f"image.digest=sha256:{'0' * 64}",
                      "nodeSelector.disk=fast", "imagePullSecrets[0].name=pull", "podAnnotations.a=b", "podLabels.c=d"]
        full = render(helm, mode, *[part for setting in everything for part in ("--set", setting)])
        for name, items in {mode: render(helm, mode), f"{mode}-full": full}.items():
            pathlib.Path(out, f"chart-{name}.yaml").write_text(yaml.safe_dump_all(items))
        accepted(mode, render(helm, mode), doorward)
    compare("gateway", render(helm, "gateway"), kustomize(kubectl, "overlays/gateway"))
    compare("node", render(helm, "node"), node_overlay(kustomize(kubectl, "overlays/node")))
    compare("injection", render(helm, "injection"), kustomize(kubectl, "overlays/injected") + kustomize(kubectl, "injection"))
    # Checks that the comparison detects a difference: of a value, and of an object.
    for slip, place in [("gateway.preStopSeconds=1", "preStop"), ("podDisruptionBudget.enabled=false", "PodDisruptionBudget")]:
        seen = []
        compare("gateway", render(helm, "gateway", "--set", slip), kustomize(kubectl, "overlays/gateway"), seen.append)
        if not any(place in text for text in seen):
            fault(f"{slip} makes no difference to the overlay: {seen}")
    effects(helm)
    refused(helm, "gateway", ["--set", "mode=sidecar"], "mode")
    refused(helm, "gateway", ["--set", "replica=3"], "replica")
    refused(helm, "gateway", ["--set", "config.revocations.store=redis"], "revocations")
    refused(helm, "node", ["--set", "config.issuers=null"], "issuers")
    refused(helm, "gateway", ["--set", "gateway.routes=null"], "gateway.routes is empty")
    refused(helm, "injection", ["--set", "fullnameOverride=x"], "fullnameOverride")
    for text in faults:
        print(f"error: {text}", file=sys.stderr)
    print(f"the chart: {len(MODES)} modes, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        (CHART / "values.schema.json").write_text(written(values_schema()))
    else:
        sys.exit(check(*sys.argv[1:]))
