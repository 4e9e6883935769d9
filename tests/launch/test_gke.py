"""The JobSets: their counts agree, and what becomes of their pods (kubectl_stand_in.py)."""

import pathlib
import re
import subprocess
import sys

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
STAND_IN = pathlib.Path(__file__).parent / "kubectl_stand_in.py"
FILES = ["gke_jobset.yaml", "gke_gpu_jobset.yaml"]
HOSTS = {"gke_jobset.yaml": 4, "gke_gpu_jobset.yaml": 2}

both = pytest.mark.parametrize("file", FILES)


class Cluster:
    """A JobSet of this repository, with a command and a folder of this test in its marked lines."""

    def __init__(self, job, file):
        self.job, self.folder = job, job.folder
        gib = self.folder / "gib"
        (gib / "scripts").mkdir(parents=True)
        (gib / "scripts" / "set_nccl_env.sh").write_text("export NCCL_NET=gIB\n")
        (self.folder / "bin" / "launch").symlink_to(LAUNCH / "local.sh")
        text = (LAUNCH / file).read_text().replace("/usr/local/gib", str(gib))
        args = f'args: [toy, {job.workdir}, --name, "two words"]'
        self.text = re.sub(r"args: \[.*\]", args, text)

    def kubectl(self, *words, code=0):
        environment = {"CLUSTER": str(self.folder), "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin"}
        done = subprocess.run(
            [sys.executable, STAND_IN, *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def apply(self, code=0):
        path = self.folder / "jobset.yaml"
        path.write_text(self.text)
        return self.kubectl("apply", "-f", str(path), code=code)

    def run(self, ends):
        self.apply()
        self.kubectl("wait", f"--for=condition={ends}", "jobset/esam")


@pytest.fixture
def cluster(launcher):
    return lambda plan, file="gke_jobset.yaml": Cluster(launcher(plan), file)


@both
def test_all_hosts_start_and_find_each_other(cluster, file):
    jobset = cluster("def plan(number, attempt):\n    return 0\n", file)
    jobset.run("Completed")
    found = jobset.job.environments()
    assert found.keys() == {(number, 0) for number in range(HOSTS[file])}
    names = {each["HOSTNAME"] for each in found.values()}
    for (number, _), each in found.items():
        assert each["JAX_NUM_PROCESSES"] == str(HOSTS[file])
        host, _, port = each["JAX_COORDINATOR_ADDRESS"].partition(":")
        assert host in names and host == found[0, 0]["HOSTNAME"]
        assert each["JAX_COORDINATOR_BIND_ADDRESS"] == f"10.0.0.{number}:{port}"
    for text in jobset.job.notes("start").values():
        words = [str(jobset.job.workdir), "--peers.devices", "16", "--name", "two words"]
        assert text.splitlines()[-5:] == words


def test_gpus_speak_through_googles_plugin(cluster):
    jobset = cluster("def plan(number, attempt):\n    return 0\n", "gke_gpu_jobset.yaml")
    jobset.run("Completed")
    for each in jobset.job.environments().values():
        assert each["NCCL_NET"] == "gIB"
        assert each["LD_LIBRARY_PATH"].split(":")[0] == f"{jobset.folder}/gib/lib64"


@both
def test_a_lost_host_ends_the_others_and_all_start_again(cluster, file):
    jobset = cluster(
        "def plan(number, attempt):\n"
        f"    peers_started({HOSTS[file]})\n"
        "    if attempt == 0:\n"
        "        kill() if number == 1 else wait()\n"
        "    return 0\n",
        file,
    )
    jobset.run("Completed")
    hosts = range(HOSTS[file])
    assert jobset.job.notes("start").keys() == {(host, go) for host in hosts for go in (0, 1)}
    assert jobset.job.notes("term").keys() == {(host, 0) for host in hosts if host != 1}


@both
def test_what_the_user_must_mend_fails_the_jobset(cluster, file):
    """Other numbers of devices, say."""
    jobset = cluster("def plan(number, attempt):\n    return 2 if number == 1 else wait()\n", file)
    jobset.run("Failed")
    assert (jobset.folder / "restarts").read_text() == "0"


def test_restarts_come_to_an_end(cluster):
    jobset = cluster("def plan(number, attempt):\n    return 1\n")
    jobset.text = jobset.text.replace("maxRestarts: 50", "maxRestarts: 2")
    jobset.run("Failed")
    assert (jobset.folder / "restarts").read_text() == "2"


def test_a_deleted_jobset_saves_first(cluster):
    jobset = cluster("def plan(number, attempt):\n    note('ready')\n    wait()\n")
    jobset.apply()
    jobset.job.wait_for("ready", 4)
    jobset.kubectl("delete", "jobset", "esam")
    assert len(jobset.job.notes("term")) == 4


def test_a_mistyped_key_is_refused(cluster):
    jobset = cluster("")
    jobset.text = jobset.text.replace("backoffLimit: 0", "backOffLimit: 0")
    assert "unknown field jobset.spec.replicatedJobs[0].template.spec.backOffLimit" in (
        jobset.apply(code=1)
    )


@both
def test_counts_of_hosts_and_devices_agree(file):
    jobset = yaml.safe_load((LAUNCH / file).read_text())
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    values = {each["name"]: each.get("value") for each in container["env"]}
    hosts = int(values["JAX_NUM_PROCESSES"])
    assert job["completions"] == job["parallelism"] == hosts == HOSTS[file]
    (per_host,) = container["resources"]["limits"].values()
    assert int(values["DEVICES"]) == hosts * per_host
    selector = job["template"]["spec"]["nodeSelector"]
    if "cloud.google.com/gke-tpu-topology" in selector:
        chips = 1
        for side in selector["cloud.google.com/gke-tpu-topology"].split("x"):
            chips *= int(side)
        assert int(values["DEVICES"]) == chips


def test_a_slice_is_one_runs_alone():
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    exclusive = jobset["metadata"]["annotations"]["alpha.jobset.sigs.k8s.io/exclusive-topology"]
    assert exclusive == "cloud.google.com/gke-nodepool"


def test_every_gpu_has_a_network_of_its_own():
    jobset = yaml.safe_load((LAUNCH / "gke_gpu_jobset.yaml").read_text())
    template = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    annotations = template["metadata"]["annotations"]
    listed = yaml.safe_load(annotations["networking.gke.io/interfaces"])
    networks = {each["interfaceName"]: each["network"] for each in listed}
    assert len(networks) == len(listed)  # no name twice
    assert networks[annotations["networking.gke.io/default-interface"]] == "default"
    (gpus,) = template["spec"]["containers"][0]["resources"]["limits"].values()
    rdma = [network for network in networks.values() if network.startswith("rdma-")]
    assert sorted(rdma) == [f"rdma-{number}" for number in range(gpus)]
    mounted = {
        each["name"]: each["mountPath"]
        for each in template["spec"]["containers"][0]["volumeMounts"]
    }
    assert mounted["gib"] == "/usr/local/gib" and mounted["nvidia"] == "/usr/local/nvidia"
