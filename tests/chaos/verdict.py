"""Whether a disturbed run came to the same as the undisturbed one: a list of what differs."""

import json
import re

import jax
import numpy as np
import orbax.checkpoint as ocp
from chaos import hooks
from chaos.faults import saved
from chaos.supervisor import read_journal

NUMBERS = ("loss", "grad_norm", "param_norm", "update_ratio", "learning_rate")
# What is meant to stay: checkpoints that were quarantined, and the stacks of processes that hung.
MAY_REMAIN = re.compile(r"checkpoints/\d+\.(damaged|uncommitted)(\.\d+)?|stacks(/.*)?")
_MOST_NAMED = 5


def differences(calm, stormy, calm_folder, stormy_folder, count):
    """What differs between two work folders and the journals beside them, in words; [] if nothing.

    Both runs are finished.
    """
    found = []
    for part in (_parameters, _models, _metrics, _names):
        found += part(calm, stormy)
    for number in range(count):
        journals = [hooks.journal(folder, number) for folder in (calm_folder, stormy_folder)]
        found += [f"process {number}: {fault}" for fault in _batches(*map(read_journal, journals))]
    return found


def _parameters(calm, stormy):
    """Every array of the last checkpoint: parameters, moments and counters."""
    steps = [saved(workdir / "checkpoints")[-1:] for workdir in (calm, stormy)]
    if steps[0] != steps[1]:
        return [f"the last checkpoint is {steps[1]} instead of {steps[0]}"]
    ours, theirs = (_arrays(workdir, steps[0][0]) for workdir in (stormy, calm))
    if ours.keys() != theirs.keys():
        return [f"the last checkpoint holds other arrays: {sorted(ours.keys() ^ theirs.keys())}"]
    wrong = [name for name in ours if not _same_bits(ours[name], theirs[name])]
    return [_listed("arrays differ in the last checkpoint", wrong)] if wrong else []


def _arrays(workdir, step):
    """As plain arrays, whatever mesh they were saved from."""
    folder = (workdir / "checkpoints" / str(step) / "state").absolute()
    with ocp.PyTreeCheckpointer() as reader:
        plain = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            reader.metadata(folder).item_metadata.tree,
        )
        tree = reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=plain))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _models(calm, stormy):
    """What the run is for, as files."""
    files = [path.relative_to(calm) for path in (calm / "model").rglob("*") if path.is_file()]
    if not files:
        return ["the undisturbed run wrote no model"]
    wrong = [
        str(file)
        for file in files
        if not (stormy / file).is_file()
        or (stormy / file).read_bytes() != (calm / file).read_bytes()
    ]
    return [_listed("model files differ", wrong)] if wrong else []


def _metrics(calm, stormy):
    """One line for each step, with the same numbers."""
    ours, theirs = (_lines(workdir / "metrics.jsonl") for workdir in (stormy, calm))
    found = []
    if len(ours) != len({step for step, _ in ours}):
        found.append("metrics.jsonl has several lines for one step")
    ours, theirs = dict(ours), dict(theirs)
    wrong = sorted(
        step for step in ours.keys() | theirs.keys() if ours.get(step) != theirs.get(step)
    )
    return found + (
        [_listed("steps with other or no numbers in metrics.jsonl", wrong)] if wrong else []
    )


def _lines(file):
    lines = map(json.loads, file.read_text().splitlines())
    return [
        (line["step"], tuple(line.get(name) for name in NUMBERS))
        for line in lines
        if "loss" in line
    ]


def _batches(calm, stormy):
    """Every update had the batch that it had in the undisturbed run, as often as it was done."""
    expected = {line["step"]: line["digest"] for line in calm if "digest" in line}
    had = [(line["step"], line["digest"]) for line in stormy if "digest" in line]
    wrong = sorted({step for step, digest in had if digest != expected.get(step)})
    absent = sorted(expected.keys() - {step for step, _ in had})
    found = [_listed("steps had another batch", wrong)] if wrong else []
    return found + ([_listed("steps had no batch", absent)] if absent else [])


def _names(calm, stormy):
    """Nothing is left over: no half-written file or checkpoint, no owner."""
    left = sorted(name for name in _tree(stormy) - _tree(calm) if not MAY_REMAIN.fullmatch(name))
    last = stormy / "checkpoints" / str(saved(stormy / "checkpoints")[-1])
    left += [path.name for path in last.rglob("*") if "tmp" in path.name or path.name[0] == "."]
    return [_listed("left over", left)] if left else []


def _tree(workdir):
    """Names down to the checkpoints, whose own files have names drawn at random."""
    inner = {f"checkpoints/{path.name}" for path in (workdir / "checkpoints").iterdir()}
    outer = {path.relative_to(workdir).as_posix() for path in workdir.rglob("*")}
    return inner | {name for name in outer if not name.startswith("checkpoints/")}


def _listed(what, which):
    more = f" and {len(which) - _MOST_NAMED} more" if len(which) > _MOST_NAMED else ""
    return f"{what}: {', '.join(map(str, which[:_MOST_NAMED]))}{more}"
