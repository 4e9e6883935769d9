"""The launchers as the tools of other people read them, which pip does not bring with this package.

`pytest -m tools tests/launch`, after
pip install check-jsonschema skypilot; apt-get install slurm-client; Google's Cloud SDK for gcloud;
JOBSET_CRD: config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml of kubernetes-sigs/jobset.
What the launchers make of these tools is tested everywhere, against stand-ins.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"

pytestmark = pytest.mark.tools


def run(tool, *arguments, environment=None):
    """What it prints; fails with that unless the tool is content."""
    found = shutil.which(tool)
    assert found, f"{tool} is not installed: see the head of this file"
    done = subprocess.run(
        [found, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | (environment or {}),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("file", ["gke_jobset.yaml", "gke_gpu_jobset.yaml"])
def test_jobset_fits_its_schema(file, tmp_path):
    """With every key known: Kubernetes would drop a mistyped one without a word."""
    crd = yaml.safe_load(pathlib.Path(os.environ["JOBSET_CRD"]).read_text())
    (version,) = (each for each in crd["spec"]["versions"] if each["name"] == "v1alpha2")
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(_strict(version["schema"]["openAPIV3Schema"])))
    run("check-jsonschema", "--schemafile", schema, LAUNCH / file)


def test_skypilot_reads_its_task(tmp_path):
    sky = shutil.which("sky")
    assert sky, "sky is not installed: see the head of this file"
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
    assert shutil.which("sbatch"), "sbatch is not installed: see the head of this file"
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
    (line,) = re.findall(r"^step=\(srun (.*)\)", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE)
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
