"""Checks manifests against the published schemas, strictly: a field that a schema does not know is a fault.

    schemas.py CRDS FILE...

Kubernetes' own kinds for each version from 1.33 to 1.37 (PyPI: kubernetes-validate); other projects' kinds by
the CustomResourceDefinitions in the folder CRDS. Then what no schema asks: that pods are of the Pod Security
standard `restricted`, and that Doorward starts first. Not run: the CEL rules of CustomResourceDefinitions,
which need an API server. Prints what was skipped, and why.
"""

import copy
import glob
import sys

import jsonschema
import kubernetes_validate
import yaml

VERSIONS = [f"1.{minor}.0" for minor in range(33, 38)]
# The kinds that a version lacks; nothing else may be skipped.
SINCE = {("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy"): 36,
         ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicyBinding"): 36}
# Kinds without a schema in any registry here.
WITHOUT_SCHEMA = {"gateway.kgateway.dev"}

faults, skipped = [], set()


def custom_schemas(folder):
    """The schema of each (apiVersion, kind) that the CustomResourceDefinitions define."""
    found = {}
    for file in glob.glob(f"{folder}/*/*.y*ml"):
        for crd in yaml.safe_load_all(open(file)):
            if not crd or crd.get("kind") != "CustomResourceDefinition":
                continue
            for version in crd["spec"]["versions"]:
                key = (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"])
                schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
                whole = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": whole}
                found[key] = strict(schema)
    return found


def strict(schema):
    """As the API server reads it under strict field validation: unknown fields are errors."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: strict(value) for name, value in schema.items() if name not in ("properties", "default", "enum")}
    if "enum" in schema:
        result["enum"] = schema["enum"]
    if "properties" in schema:
        result["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        # Inside anyOf and similar keywords a schema has no type, and covers only some fields.
        if schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    if schema.get("nullable") and "type" in schema:
        result["type"] = [schema["type"], "null"]
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
    # OpenAPI 3.0 has a flag where JSON Schema has the number.
    for bound in ("Maximum", "Minimum"):
        if result.pop(f"exclusive{bound}", False) is True:
            result[f"exclusive{bound}"] = result.pop(bound.lower())
    return result


def check_kubernetes(place, resource):
    since = SINCE.get((resource["apiVersion"], resource["kind"]), 0)
    for version in VERSIONS:
        if int(version.split(".")[1]) < since:
            skipped.add(f"{resource['kind']} in Kubernetes {version}, which lacks it")
            continue
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            faults.append(f"{place}: Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            faults.append(f"{place}: Kubernetes {version}: {error.message}")


def check_pod(place, pod):
    """Pod Security `restricted`, a token only for who asks for one, and Doorward before all others."""
    inits = pod.get("initContainers", [])
    for container in inits + pod["containers"]:
        context = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
        wanted = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                  "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}
        for name, value in wanted.items():
            if context.get(name) != value:
                faults.append(f"{place}: {container['name']}: {name} is {context.get(name)}, not {value}")
        if "cpu" in container.get("resources", {}).get("limits", {}):
            faults.append(f"{place}: {container['name']}: a CPU limit is latency")
        no_token = "/var/run/secrets/kubernetes.io/serviceaccount" in [
            mount["mountPath"] for mount in container.get("volumeMounts", [])]
        if pod.get("automountServiceAccountToken") is not False and not no_token:
            faults.append(f"{place}: {container['name']}: has a token for the Kubernetes API")
    for volume in pod.get("volumes", []):
        if not {"name", "configMap", "secret", "emptyDir", "projected"}.issuperset(volume):
            faults.append(f"{place}: volume {volume['name']} is of a kind that `restricted` refuses")
    names = [container["name"] for container in inits]
    if "doorward" in names:
        if names[0] != "doorward" or names[1:2] not in ([], ["envoy"]):
            faults.append(f"{place}: starts {names}; Doorward must be first, then Envoy")
        if any(container.get("restartPolicy") != "Always" for container in inits[:2]):
            faults.append(f"{place}: Doorward or Envoy is no native sidecar")


def main(folder, files):
    custom = custom_schemas(folder)
    checked = 0
    for file in files:
        for resource in filter(None, yaml.safe_load_all(open(file))):
            place = f"{file}: {resource['kind']} {resource['metadata']['name']}"
            key = (resource["apiVersion"], resource["kind"])
            group = resource["apiVersion"].split("/")[0]
            checked += 1
            if key in custom:
                for error in jsonschema.Draft202012Validator(custom[key]).iter_errors(resource):
                    faults.append(f"{place}: {error.json_path}: {error.message}")
            elif group in WITHOUT_SCHEMA or "." in group and not group.endswith(".k8s.io") or group.startswith("gateway."):
                skipped.add(f"{resource['kind']} of {resource['apiVersion']}: its schema is not here")
            else:
                check_kubernetes(place, resource)
            spec = resource.get("spec", {})
            if resource["kind"] == "Pod":
                check_pod(place, spec)
            elif isinstance(spec, dict) and "containers" in spec.get("template", {}).get("spec", {}):
                check_pod(place, spec["template"]["spec"])
    for line in sorted(skipped):
        print(f"skipped: {line}")
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    print(f"{checked} objects, {len(faults)} faults, Kubernetes {VERSIONS[0]} to {VERSIONS[-1]}, {len(custom)} custom kinds")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
