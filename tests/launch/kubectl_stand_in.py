"""kubectl and a cluster with JobSet, as `python kubectl_stand_in.py apply -f FILE` and so on.

Pods are processes of this machine with the variables of their container and no others but PATH,
where `launch` stands for the image. A key that Kubernetes does not know is refused, as is a value
of another type than it wants. CLUSTER names a folder for `status` and the ids of processes.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import yaml

CLUSTER = pathlib.Path(os.environ["CLUSTER"])
DOCKERFILE = pathlib.Path(__file__).parents[2] / "launch" / "Dockerfile"

# What a JobSet may hold, as far as ours need it: a type, {key: what it holds} or [what each holds].
# `...` in place of keys stands for any name.
NAMES = {...: str}
ENV = {"name": str, "value": str, "valueFrom": {"fieldRef": {"fieldPath": str}}}
CONTAINER = {
    "name": str,
    "image": str,
    "command": [str],
    "args": [str],
    "env": [ENV],
    "resources": {"limits": {...: int}},
    "volumeMounts": [{"name": str, "mountPath": str}],
}
VOLUME = {
    "name": str,
    "persistentVolumeClaim": {"claimName": str},
    "emptyDir": {"medium": str},
    "hostPath": {"path": str},
}
PREFERENCE = {
    "weight": int,
    "podAffinityTerm": {"topologyKey": str, "labelSelector": {"matchLabels": NAMES}},
}
POD = {
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "nodeSelector": NAMES,
    "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [PREFERENCE]}},
    "securityContext": {"runAsUser": int},
    "containers": [CONTAINER],
    "volumes": [VOLUME],
}
ON_EXIT = {"containerName": str, "operator": str, "values": [int]}
JOB = {
    "completionMode": str,
    "completions": int,
    "parallelism": int,
    "backoffLimit": int,
    "podFailurePolicy": {"rules": [{"action": str, "onExitCodes": ON_EXIT}]},
    "template": {"metadata": {"annotations": NAMES}, "spec": POD},
}
JOBSET = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "annotations": NAMES},
    "spec": {
        "network": {"enableDNSHostnames": bool},
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [{"name": str, "action": str, "onJobFailureReasons": [str]}],
        },
        "replicatedJobs": [{"name": str, "template": {"spec": JOB}}],
    },
}


def check(value, wanted, where="jobset"):
    if isinstance(wanted, list):
        if not isinstance(value, list):
            refuse(f"{where} must be a list")
        for number, each in enumerate(value):
            check(each, wanted[0], f"{where}[{number}]")
    elif isinstance(wanted, dict):
        if not isinstance(value, dict):
            refuse(f"{where} must be an object")
        for key, each in value.items():
            if key not in wanted and ... not in wanted:
                refuse(f"unknown field {where}.{key}")
            check(each, wanted.get(key, wanted.get(...)), f"{where}.{key}")
    elif type(value) is not wanted:
        refuse(f"{where} is {value!r}, which is no {wanted.__name__}")


def refuse(text):
    sys.exit(f"Error from server (BadRequest): error when creating: {text}")


def apply(path):
    jobset = yaml.safe_load(pathlib.Path(path).read_text())
    check(jobset, JOBSET)
    pod = _job(jobset)["template"]["spec"]
    names = {each["name"] for each in pod["volumes"]}
    for container in pod["containers"]:
        for mount in container["volumeMounts"]:
            if mount["name"] not in names:
                refuse(f"volumeMounts: {mount['name']!r} not found")
    for rule in _job(jobset)["podFailurePolicy"]["rules"]:
        if pod["restartPolicy"] != "Never":
            refuse("podFailurePolicy needs restartPolicy Never")
        if rule["onExitCodes"]["containerName"] not in {each["name"] for each in pod["containers"]}:
            refuse("podFailurePolicy names an unknown container")
    (CLUSTER / "jobset.json").write_text(json.dumps(jobset))
    (CLUSTER / "status").write_text("Running")
    controller = subprocess.Popen(
        [sys.executable, __file__, "controller"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    (CLUSTER / "controller").write_text(str(controller.pid))
    print(f"jobset.jobset.x-k8s.io/{jobset['metadata']['name']} created")


def _job(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def controller():
    """Starts the pods of the job together until all are done, as JobSet's controller does."""
    jobset = json.loads((CLUSTER / "jobset.json").read_text())
    pods = []
    signal.signal(signal.SIGTERM, deleted)
    try:
        return outcome(jobset, pods)
    except DeletedError:
        stop(pods, jobset)
        os._exit(0)


class DeletedError(Exception):
    pass


def deleted(*_):
    # Not `stop` itself: what is interrupted may hold the lock with which a pod is waited for.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise DeletedError


def outcome(jobset, pods):
    """How the job ends; `pods` holds those that are running."""
    policy = jobset["spec"]["failurePolicy"]
    for number in range(policy["maxRestarts"] + 1):
        (CLUSTER / "restarts").write_text(str(number))
        pods[:] = [start(jobset, index) for index in range(_job(jobset)["completions"])]
        while any(pod.poll() is None for pod in pods) and not any(pod.poll() for pod in pods):
            time.sleep(0.02)
        codes = [pod.poll() for pod in pods]
        stop(pods, jobset)
        if not any(codes):
            return "Completed"
        failed = next(code for code in codes if code)
        reason = "BackoffLimitExceeded"
        for rule in _job(jobset)["podFailurePolicy"]["rules"]:
            if failed in rule["onExitCodes"]["values"] and rule["action"] == "FailJob":
                reason = "PodFailurePolicy"
        for rule in policy["rules"]:
            if reason in rule["onJobFailureReasons"] and rule["action"] == "FailJobSet":
                return "Failed"
    return "Failed"


def start(jobset, index):
    name = jobset["metadata"]["name"]
    host = jobset["spec"]["replicatedJobs"][0]["name"]
    (container,) = _job(jobset)["template"]["spec"]["containers"]
    fields = {
        "metadata.annotations['batch.kubernetes.io/job-completion-index']": str(index),
        "status.podIP": f"10.0.0.{index}",
    }
    environment = {"PATH": os.environ["PATH"], "HOSTNAME": f"{name}-{host}-0-{index}.{name}"}
    for each in container["env"]:
        value = each.get("value")
        if value is None:
            value = fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
        environment[each["name"]] = re.sub(
            r"\$\((\w+)\)", lambda match: environment.get(match[1], match[0]), value
        )
    entry = re.search(r"^ENTRYPOINT (.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    command = container.get("command", json.loads(entry[1])) + container["args"]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def stop(pods, jobset):
    """SIGTERM to process 1 of each container, SIGKILL to all of it after the grace period."""
    for pod in pods:
        if pod.poll() is None:
            pod.terminate()
    grace = _job(jobset)["template"]["spec"]["terminationGracePeriodSeconds"]
    for pod in pods:
        with contextlib.suppress(subprocess.TimeoutExpired):
            pod.wait(timeout=grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pod.pid, signal.SIGKILL)


def wait(condition):
    while (status := (CLUSTER / "status").read_text()) == "Running":
        time.sleep(0.02)
    if status != condition:
        sys.exit(f"error: timed out waiting for the condition: it is {status}")


def delete():
    os.kill(pid := int((CLUSTER / "controller").read_text()), signal.SIGTERM)
    while pathlib.Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in (
        pathlib.Path(f"/proc/{pid}/status").read_text()
    ):
        time.sleep(0.02)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["apply", "-f", path]:
            apply(path)
        case ["controller"]:
            ended = controller()
            (CLUSTER / "ended").write_text(ended)
            (CLUSTER / "ended").replace(CLUSTER / "status")  # whoever waits never reads half
        case ["wait", condition, _jobset]:
            wait(condition.removeprefix("--for=condition="))
        case ["delete", "jobset", _name]:
            delete()
        case other:
            sys.exit(f"error: unknown command {other}")
