"""Runs the MutatingAdmissionPolicy of k8s/injection by the API server's own code, and compares.

    admission.py ADMISSION INJECTION.yaml SHOP.yaml

A pod with the label must come out as the component `sidecar` makes it; one that has Doorward already, as it was.
"""

import json
import subprocess
import sys
import tempfile

import yaml


def main(admission, injection, shop):
    (policy,) = [item for item in yaml.safe_load_all(open(injection)) if item["kind"] == "MutatingAdmissionPolicy"]
    template = next(item["spec"]["template"] for item in yaml.safe_load_all(open(shop)) if item["kind"] == "Deployment")
    guarded = template["spec"]

    def apply(spec):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop"} | template["metadata"],
               "spec": spec}
        with tempfile.TemporaryDirectory() as folder:
            for name, value in (("policy", policy), ("pod", pod)):
                with open(f"{folder}/{name}.yaml", "w") as file:
                    json.dump(value, file)
            command = [admission, f"{folder}/policy.yaml", f"{folder}/pod.yaml"]
            result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["spec"]
        for container in result["initContainers"] + result["containers"]:
            if not container["resources"]:
                del container["resources"]  # As Go writes a pod, it is there even when it is empty.
        return result

    def same(got, wanted, what):
        if got != wanted:
            sys.exit(f"error: {what}:\n  policy:    {json.dumps(got, sort_keys=True)}\n"
                     f"  component: {json.dumps(wanted, sort_keys=True)}")

    ours = guarded["initContainers"]
    # The ConfigMap `envoy` has a hash in its name where kustomize can follow it, and none for the policy.
    volumes = json.loads(json.dumps(guarded["volumes"]))
    for volume in volumes:
        if volume["name"] == "envoy-config":
            volume["configMap"]["name"] = "envoy"
    volumes = {volume["name"]: volume for volume in volumes}

    bare = {name: value for name, value in guarded.items() if name not in ("initContainers", "volumes")}
    own = {"initContainers": [{"name": "migrate", "image": "migrate"}], "volumes": [{"name": "data", "emptyDir": {}}]}
    for what, more in (("a pod with nothing of its own", {}), ("a pod with its own", own)):
        result = apply(bare | more)
        same(result["initContainers"][:2], ours, f"{what}: the containers")
        same(result["initContainers"][2:], more.get("initContainers", []), f"{what}: its own come after")
        put_in = {volume["name"]: volume for volume in result["volumes"]}
        same(put_in, volumes | {volume["name"]: volume for volume in more.get("volumes", [])}, f"{what}: the volumes")
        same(result["containers"], guarded["containers"], f"{what}: its containers")
    once = apply(bare)
    same(apply(once), once, "a pod that has Doorward already")
    print("the admission policy makes of a pod what the component makes, and leaves a guarded one alone")


if __name__ == "__main__":
    main(*sys.argv[1:])
