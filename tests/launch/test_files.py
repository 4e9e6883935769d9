"""Every launcher as the linters of its language read it; `make test` installs them."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from esam_jax import files

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
YAMLS = sorted(LAUNCH.glob("*.yaml"))
IMAGE = LAUNCH / "Dockerfile"
FILES = [*SCRIPTS, *YAMLS, IMAGE]

by_name = pytest.mark.parametrize(
    "path", [*SCRIPTS, *sorted((LAUNCH.parent / ".ci").iterdir())], ids=lambda path: path.name
)


def lint(tool, *arguments):
    """Fails with what it says unless it is content; one that is missing fails as well."""
    beside = str(pathlib.Path(sys.executable).parent)
    found = shutil.which(tool, path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    assert found, f"{tool} is not installed: pip install '.[dev]'"
    done = subprocess.run(
        [found, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_launchers_are_here_and_short():
    shell = {"local.sh", "slurm.sh", "tpu_vm.sh"}
    others = {"gke_jobset.yaml", "gke_gpu_jobset.yaml", "skypilot.yaml", "Dockerfile"}
    assert {path.name for path in FILES} == shell | others
    for path in FILES:
        assert len(path.read_text().splitlines()) < 90, path


@by_name
def test_bash_reads_it(path):
    lint("bash", "-n", path)
    assert os.access(path, os.X_OK)


@by_name
def test_shellcheck_is_content(path):
    lint("shellcheck", path)


def test_shellcheck_finds_something_elsewhere(tmp_path):
    """Else its silence would say nothing."""
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/bash\na= b=1\n")
    with pytest.raises(AssertionError, match="SC1007"):
        lint("shellcheck", script)


def test_hadolint_is_content():
    lint("hadolint", IMAGE)


def test_the_image_names_the_oldest_driver_and_reaches_rdma():
    """CUDA's minor versions run on the driver of x.0: 580 for 13.0, 525 for 12.0."""
    text = IMAGE.read_text()
    assert "driver 580" in text and "driver 525" in text
    assert re.search(r"^ARG CUDA=13\.0$", text, re.MULTILINE)
    assert re.search(r"^ENV .*NVIDIA_REQUIRE_CUDA=cuda>=\$\{CUDA\}", text, re.MULTILINE)
    final = text.rsplit("\nFROM ", 1)[1]
    (installed,) = re.findall(r"apt-get install (.*) \\", final)
    assert {"rdma-core", "ibverbs-providers", "libibverbs1"} <= set(installed.split())


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


@pytest.mark.parametrize("block", ["setup", "run"])
def test_shellcheck_is_content_with_skypilots_blocks(tmp_path, block):
    script = tmp_path / block
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    script.write_text(f"#!/bin/bash\n{task[block]}")
    lint("shellcheck", "--exclude", "SC2086", script)  # ARGS is split on purpose


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("workdir", "refused"),
    [
        ("gs://bucket/run", True),
        ("s3://bucket/run", True),
        ("https://host/run", True),
        ("gs:/bucket/run", True),  # as a path that was made of an address
        ("runs/gs:/a", False),
        ("C:/run", False),
        ("a:b", False),
    ],
)
def test_a_bucket_is_refused_before_anything_is_made(path, workdir, refused, tmp_path):
    """By the rule of `files.is_address`; otherwise each continues, and finds no command."""
    assert files.is_address(workdir) == refused
    done = subprocess.run(
        ["/bin/bash", path, "toy", workdir],
        env={"PATH": str(tmp_path), "RESTARTS": "0", "PAUSE": "0", "CONTAINER": "esam.sif"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = (
        f"launch: WORKDIR={workdir} is a bucket or URL: name a folder on a local disk or a shared"
    )
    if refused:
        assert done.returncode == 2 and done.stderr.startswith(said)
        assert done.stderr.count("\n") == 1
    else:
        assert "bucket" not in done.stderr
    assert list(tmp_path.iterdir()) == []
