"""launch/tpu_vm.sh: a slice is asked for, used, and asked for again. gcloud is a stand-in."""

import itertools
import signal

import pytest

SETTINGS = {
    "NAME": "run1",
    "ZONE": "us-west4-a",
    "ACCELERATOR": "v5litepod-16",
    "RUNTIME": "v2-alpha-tpuv5-lite",
    "NFS": "10.0.0.2:/vol",
    "IMAGE": "us-docker.pkg.dev/p/r/esam:1",
    "SPOT": "yes",
}

# Knows one queued resource and the flags of what is done with it, and runs what ssh is given here,
# as every host of the slice; `docker run` leaves as plan says.
_GCLOUD = r"""#!/bin/bash
cd {folder} || exit 1
declare -A flags=([describe]="zone format" [delete]="zone force quiet" [ssh]="zone worker command"
    [create]="zone node-id accelerator-type runtime-version spot")
[[ "$1 $2 $3" == "compute tpus "@(queued-resources|tpu-vm) && ${{flags[$4]}} ]] || exit 2
for word in "${{@:6}}"; do
    name=${{word%%=*}}
    [[ " ${{flags[$4]}} " == *" ${{name#--}} "* ]] && continue
    echo "ERROR: unrecognized arguments: $name" >&2
    exit 2
done
for last; do :; done
case $4 in
    describe) [[ ! -e broken ]] || {{ rm broken; exit 1; }}
        cat state 2>/dev/null || {{ echo NOT_FOUND >&2; exit 1; }} ;;
    create) echo create "$@" >>said; echo ACTIVE >state ;;
    delete) echo delete >>said; rm state ;;
    ssh) pids=() code=0
        for ((host = 0; host < $(cat hosts 2>/dev/null || echo 1); host++)); do
            HOSTNAME=t1v-n-1a2b-w-$host bash -c "${{last#--command=}}" & pids+=($!)
        done
        for pid in "${{pids[@]}}"; do wait "$pid" || code=$?; done
        exit "$code" ;;
esac
"""
_SUDO = r"""#!/bin/bash
cd {folder} || exit 1
[[ "$*" == "docker run "* ]] || {{ echo "${{*:1:2}}" >>said; exit 0; }}
echo "docker run" >>said
printf '%s\n' "$@" >run
{plan}
"""


@pytest.fixture
def tpu(launcher):
    def make(plan):
        made = launcher(script="tpu_vm.sh")
        made.tool("gcloud", _GCLOUD.format(folder=made.folder))
        made.tool("sudo", _SUDO.format(folder=made.folder, plan=plan))
        return made

    return make


def said(tpu):
    return [line.split(" compute")[0] for line in (tpu.folder / "said").read_text().splitlines()]


def refuse_once(tpu, verb):
    gcloud = tpu.folder / "bin" / "gcloud"
    refused = f"{verb}) [[ -e refused ]] || {{ touch refused; exit 1; }}\n"
    gcloud.write_text(gcloud.read_text().replace(f"{verb})", refused))


START = ["docker stop", "docker rm", "gcloud auth", "docker volume", "docker pull", "docker run"]


def test_a_slice_is_asked_for_and_used(tpu):
    launcher = tpu("exit 0")
    assert launcher.run("--name", "it's two words", **SETTINGS) == 0
    assert said(launcher) == ["create", *START]
    create = (launcher.folder / "said").read_text().splitlines()[0]
    assert "--accelerator-type=v5litepod-16" in create and create.endswith("--spot")
    words = (launcher.folder / "run").read_text().splitlines()
    image = words.index("us-docker.pkg.dev/p/r/esam:1")
    assert words[image + 1 :] == ["toy", str(launcher.workdir), "--name", "it's two words"]


def test_a_slice_that_was_taken_away_is_replaced(tpu):
    launcher = tpu("[[ -e again ]] && exit 0\ntouch again\necho SUSPENDED >state\nexit 2")
    assert launcher.run(**SETTINGS) == 0
    assert said(launcher) == ["create", *START, "delete", "create", *START]


def test_hosts_that_leave_are_started_again_a_number_of_times(tpu):
    launcher = tpu("exit 255")
    assert launcher.run(RESTARTS="1", **SETTINGS) == 255
    assert said(launcher) == ["create", *START, *START]


def test_a_slice_is_not_asked_for_twice_when_the_network_fails(tpu):
    """Both times that it looks after the hosts are lost, gcloud cannot say what there is."""
    launcher = tpu("[[ -e again ]] && exit 0\ntouch again broken\nexit 255")
    assert launcher.run(**SETTINGS) == 0
    assert said(launcher) == ["create", *START, *START]


def test_a_slice_that_cannot_be_asked_for_is_asked_for_again(tpu):
    launcher = tpu("exit 0")
    refuse_once(launcher, "create")
    assert launcher.run(**SETTINGS) == 0
    assert "no slice can be requested" in launcher.errors
    assert said(launcher) == ["create", *START]


def test_a_slice_that_cannot_be_deleted_is_deleted_again(tpu):
    launcher = tpu("[[ -e again ]] && exit 0\ntouch again\necho SUSPENDED >state\nexit 255")
    refuse_once(launcher, "delete")
    assert launcher.run(**SETTINGS) == 0
    assert "the slice cannot be deleted" in launcher.errors
    assert said(launcher) == ["create", *START, "delete", "create", *START]


def settings_of(tpu):
    """What `docker run` puts into the environment of the container."""
    words = (tpu.folder / "run").read_text().splitlines()
    return dict(b.split("=") for a, b in itertools.pairwise(words) if a == "--env")


@pytest.mark.parametrize(
    ("accelerator", "devices"),
    [
        ("v5litepod-16", "16"),
        ("v6e-8", "8"),
        ("v4-32", "16"),
        ("v5p-256", "128"),
        ("v3-32", "32"),
    ],
)
def test_jax_must_see_the_whole_slice(tpu, accelerator, devices):
    launcher = tpu("exit 0")
    assert launcher.run(**SETTINGS | {"ACCELERATOR": accelerator}) == 0
    assert settings_of(launcher)["DEVICES"] == devices


def test_who_knows_another_slice_counts_its_devices(tpu):
    launcher = tpu("exit 0")
    other = SETTINGS | {"ACCELERATOR": "tpu9-64"}
    assert launcher.run(**other) == 2
    assert "set DEVICES: how many JAX shows on tpu9-64 is not known" in launcher.errors
    assert launcher.run(DEVICES="128", **other) == 0
    assert settings_of(launcher)["DEVICES"] == "128"


def test_every_line_says_which_host_it_comes_from(tpu):
    launcher = tpu("echo hello; echo trouble >&2; [[ $HOSTNAME == *-0 ]] || exit 75")
    (launcher.folder / "hosts").write_text("2")
    assert launcher.run(RESTARTS="0", **SETTINGS) == 75  # of one host, through the pipe
    lines = launcher.printed.splitlines()
    assert sorted(lines) == ["0: hello", "0: trouble", "1: hello", "1: trouble"]


def test_restarts_are_counted_in_one_place(tpu):
    """A launcher in the container that also did would make an hour of many short starts."""
    launcher = tpu("exit 0")
    assert launcher.run(**SETTINGS) == 0
    assert settings_of(launcher)["RESTARTS"] == "0"


def test_what_the_user_must_mend_is_not_tried_again(tpu):
    launcher = tpu("exit 2")
    assert launcher.run(**SETTINGS) == 2
    assert said(launcher) == ["create", *START]


def test_told_to_stop_it_stops_the_run(tpu):
    launcher = tpu("touch ready.0.0\nexec sleep 1")
    launcher.start(**SETTINGS).wait_for("ready")
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.finish() == 143
    assert said(launcher) == ["create", *START, "docker stop", "docker rm"]


def test_what_is_not_set_is_named(tpu):
    launcher = tpu("exit 0")
    assert launcher.run(**{**SETTINGS, "NFS": ""}) == 2
    assert "NFS is not set" in launcher.errors
