"""Slurm's commands for one job, as `python slurm_stand_in.py COMMAND ...`, as 22.05 behaves.

Its tasks are processes of this machine, with the variables that Slurm gives them. CLUSTER names a
folder with `nodes.json`, {NAME: {"cpus": 16, "gpus": 4, "state": "IDLE"}}, and with `pyxis` where
that plugin is installed. What happens is left there: `script` and `task.N` hold process ids, `said`
the commands.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

CLUSTER = pathlib.Path(os.environ["CLUSTER"])
JOB = "7"
SECOND = 0.02  # of Slurm's time, in seconds of this test

# Option: whether a value is needed. An unknown one is refused, as Slurm does it.
SBATCH = {
    "--job-name": True,
    "--nodes": True,
    "--ntasks-per-node": True,
    "--ntasks": True,
    "--cpus-per-task": True,
    "--gpus-per-node": True,
    "--gpus-per-task": True,
    "--gpus": True,
    "--mem": True,
    "--exclusive": False,
    "--oversubscribe": False,
    "--signal": True,
    "--requeue": False,
    "--open-mode": True,
    "--output": True,
}
SRUN = {"--label": False, "--kill-on-bad-exit": True, "--wait": True, "--gpu-bind": True}
PYXIS = {"--container-image": True, "--container-mounts": True}


def parse(command, words, known):
    """(options, the words after them)."""
    options, words = {}, list(words)
    while words and words[0].startswith("-"):
        name, equals, value = words.pop(0).partition("=")
        if name not in known:
            sys.exit(f"{command}: unrecognized option '{name}'")
        if known[name] and not equals:
            value = words.pop(0)
        options[name] = value
    return options, words


def nodes():
    return json.loads((CLUSTER / "nodes.json").read_text())


def spelled(names):
    """`node[0,2]`, or `a,b` where the names do not end in a number."""
    if len(names) > 1 and all(re.fullmatch(r"node\d", name) for name in names):
        return f"node[{','.join(name[4:] for name in names)}]"
    return ",".join(names)


def read(listed):
    prefix, bracket, numbers = listed.partition("[")
    return (
        [prefix + each for each in numbers.rstrip("]").split(",")] if bracket else listed.split(",")
    )


def counted(values):
    """`4(x2),8`: equal neighbours are counted."""
    runs = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return ",".join(f"{value}(x{times})" if times > 1 else f"{value}" for value, times in runs)


def repeated(text):
    """`counted` undone."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(value) for value, times in found for _ in range(int(times or 1))]


def number(text):
    return int(text.rsplit(":", 1)[-1])  # of `4` and of `h100:4`


def sbatch(words):
    """Allocates nodes and runs the script until it is queued again no more; its exit code."""
    given, (script, *arguments) = parse("sbatch", words, SBATCH)
    lines = pathlib.Path(script).read_text().splitlines()
    asked = [line.split()[1] for line in lines if line.startswith("#SBATCH ")]
    options = parse("sbatch", asked, SBATCH)[0] | given
    if "--oversubscribe" in given:
        options.pop("--exclusive", None)
    restarts = 0
    while True:
        environment = allocate(options)
        if restarts:
            environment["SLURM_RESTART_COUNT"] = str(restarts)
        process = subprocess.Popen(["bash", script, *arguments], env=os.environ | environment)
        (CLUSTER / "script").write_text(str(process.pid))
        code = process.wait()
        for path in CLUSTER.glob("task.*"):
            end(int(path.read_text()))
        if not (CLUSTER / "requeued").exists():
            return code
        (CLUSTER / "requeued").unlink()
        restarts += 1


def allocate(options):
    """The variables of the batch script, on the first nodes that can be used."""
    wanted = int(options["--nodes"])
    usable = [name for name, node in nodes().items() if node["state"] in ("IDLE", "ALLOCATED")]
    if len(usable) < wanted:
        sys.exit("sbatch: error: Requested node configuration is not available")
    names = usable[:wanted]
    each = [nodes()[name] for name in names]
    if "--ntasks" in options:
        total = int(options["--ntasks"])
        tasks = [total // wanted + (place < total % wanted) for place in range(wanted)]
    else:
        tasks = [int(options["--ntasks-per-node"])] * wanted
    per_task = int(options.get("--cpus-per-task", 1))
    whole = "--exclusive" in options
    cpus = [node["cpus"] if whole else per_task * count for node, count in zip(each, tasks)]
    gpus = [0] * wanted
    if "--gpus-per-node" in options:
        gpus = [number(options["--gpus-per-node"])] * wanted
    elif "--gpus-per-task" in options:
        gpus = [number(options["--gpus-per-task"]) * count for count in tasks]
    elif "--gpus" in options:
        gpus = [number(options["--gpus"]) // wanted] * wanted
    environment = {
        "SLURM_JOB_ID": JOB,
        "SLURM_JOB_NODELIST": spelled(names),
        "SLURM_JOB_NUM_NODES": str(wanted),
        "SLURM_NNODES": str(wanted),
        "SLURM_NTASKS": str(sum(tasks)),
        "SLURM_TASKS_PER_NODE": counted(tasks),
        "SLURM_JOB_CPUS_PER_NODE": counted(cpus),
        "SLURM_CPUS_ON_NODE": str(cpus[0]),
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
    }
    for option in (
        "--cpus-per-task",
        "--gpus-per-node",
        "--gpus-per-task",
        "--gpus",
        "--ntasks-per-node",
    ):
        if option in options:
            environment["SLURM_" + option[2:].replace("-", "_").upper()] = options[option]
    if options["--mem"] != "0":
        environment["SLURM_MEM_PER_NODE"] = options["--mem"]
    if any(gpus):
        environment["SLURM_GPUS_ON_NODE"] = str(gpus[0])
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(gpus[0])))
    (CLUSTER / "gpus").write_text(json.dumps(gpus))
    return environment


def srun(words):
    """Runs the command as every task of the job; the greatest of their exit codes."""
    known = SRUN | (PYXIS if (CLUSTER / "pyxis").exists() else {})
    if words == ["--help"]:
        print("\n".join(f"      {name}=value" for name in known))
        return 0
    options, command = parse("srun", words, known)
    names = read(os.environ["SLURM_JOB_NODELIST"])
    down = [name for name in names if "DOWN" in nodes()[name]["state"]]
    if down:
        print(f"srun: error: Task launch failed on {down[0]}: Unable to contact", file=sys.stderr)
        return 1
    tasks = repeated(os.environ["SLURM_TASKS_PER_NODE"])
    cpus = int(os.environ.get("SRUN_CPUS_PER_TASK", 1))  # SLURM_CPUS_PER_TASK is not inherited
    there = repeated(os.environ["SLURM_JOB_CPUS_PER_NODE"])
    if any(cpus * count > has for count, has in zip(tasks, there, strict=True)):
        print(
            f"srun: error: Unable to create step for job {JOB}: More processors requested than "
            "permitted",
            file=sys.stderr,
        )
        return 1
    for path in CLUSTER.glob("task.*"):
        path.unlink()
    places = [(node, local) for node, count in enumerate(tasks) for local in range(count)]
    started = []
    for task, (node, local) in enumerate(places):
        environment = os.environ | {
            "SLURM_PROCID": str(task),
            "SLURM_LOCALID": str(local),
            "SLURM_NODEID": str(node),
            "SLURMD_NODENAME": names[node],
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NODELIST": os.environ["SLURM_JOB_NODELIST"],
            "SLURM_STEP_NUM_NODES": str(len(names)),
            "SLURM_STEP_NUM_TASKS": str(len(places)),
            "SLURM_STEP_TASKS_PER_NODE": counted(tasks),
            "SLURM_CPUS_PER_TASK": str(cpus),
        }
        environment |= visible(node, local, options.get("--gpu-bind"))
        if "--container-image" in options:
            environment["PYXIS_IMAGE"] = options["--container-image"]
            environment["PYXIS_MOUNTS"] = options["--container-mounts"]
        started.append(
            subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        (CLUSTER / f"task.{task}").write_text(str(started[-1].pid))
    return finish(started, options)


def visible(node, local, bind):
    """What of the node's GPUs a task sees; with cgroups it counts its own from 0."""
    gpus = json.loads((CLUSTER / "gpus").read_text())[node]
    if not gpus:
        return {}
    per_task = os.environ.get("SLURM_GPUS_PER_TASK")
    seen = number(per_task) if per_task and bind != "none" else gpus
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(seen))),
        "SLURM_GPUS_ON_NODE": str(gpus),
    }


def finish(started, options):
    label = "--label" in options

    def copy(task, process):
        for line in process.stdout:
            print(f"{task}: " * label + line, end="", file=sys.stderr, flush=True)

    threads = [threading.Thread(target=copy, args=each) for each in enumerate(started)]
    for each in threads:
        each.start()
    signal.signal(signal.SIGTERM, lambda *_: [end(each.pid, signal.SIGTERM) for each in started])
    ended = None
    while any(each.poll() is None for each in started):
        if ended is None and any(each.poll() is not None for each in started):
            ended = time.monotonic()
        if ended is not None and time.monotonic() - ended > SECOND * int(options["--wait"]):
            for each in started:
                end(each.pid)
        time.sleep(0.01)
    for each in threads:
        each.join()
    codes = [each.wait() for each in started]
    for task, code in enumerate(codes):
        if code:
            print(f"srun: error: task {task}: Exited with {code}", file=sys.stderr, flush=True)
    return max(code if code >= 0 else 128 - code for code in codes)


def end(pid, which=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, which)


def scontrol(words):
    match words:
        case ["requeue", job] if job == JOB:
            (CLUSTER / "requeued").touch()
            os.kill(int((CLUSTER / "script").read_text()), signal.SIGKILL)
        case ["--oneliner", "show", "node", listed]:
            for name in read(listed):
                node = nodes()[name]
                print(
                    f"NodeName={name} Arch=x86_64 CPUTot={node['cpus']} Gres=gpu:{node['gpus']} "
                    f"NodeAddr={name} State={node['state']} ThreadsPerCore=1 Partitions=all"
                )
        case _:
            sys.exit(f"scontrol: invalid keyword: {' '.join(words)}")
    return 0


def scancel(words):
    """Signals the tasks, or with --batch the script alone."""
    known = {"--quiet": False, "--batch": False, "--signal": True}
    options, (job,) = parse("scancel", words, known)
    assert job == JOB
    which = getattr(signal, "SIG" + options["--signal"])
    if "--batch" in options:
        os.kill(int((CLUSTER / "script").read_text()), which)
    else:
        for path in CLUSTER.glob("task.*"):
            end(int(path.read_text()), which)
    return 0


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    with (CLUSTER / "said").open("a") as said:
        print(name, *rest, file=said)
    commands = {"sbatch": sbatch, "srun": srun, "scontrol": scontrol, "scancel": scancel}
    sys.exit(commands[name](rest))
