"""Names as training wrappers write them -> the names of the network: `module.`, `model.`, ...

DistributedDataParallel puts "module." before every name, Lightning the attribute that holds the
network ("model."), torch.compile "_orig_mod."; they nest. An average over updates may lie beside
under another ("ema_model."). A prefix is recognised by the marks of a family behind it.
"""

import re
from collections.abc import Mapping
from typing import Any

from esam_jax.convert.families import registry
from esam_jax.convert.formats import bounds, choices
from esam_jax.convert.formats.choices import Weights

# Of one wrapper each; or a name that says "average".
_WRAPPER = re.compile(r"module|model|_orig_mod|net|network|sam|sam_model", re.IGNORECASE)


def without(
    state: Mapping[str, Any], weights: Weights | None
) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """The state in the network's names, the prefix that was removed, and what there is to say.

    As it is, where no family's marks stand behind wrappers.
    """
    found = sorted(_found(state), key=len)
    taken, passed_over = choices.choose(found, weights) if found else ("", None)
    if not taken and passed_over is None:
        return dict(state), "", ()
    kept = {
        name[len(taken) :]: x
        for name, x in state.items()
        # A set without a prefix would hold all names of the other.
        if name.startswith(taken) and (taken or not name.startswith(passed_over or ""))
    }
    if passed_over is None:
        notes = [f"the prefix {taken!r} was removed from the names of the tensors"]
        others = {name for name in state if not name.startswith(taken)}
    else:
        notes = [told(taken, passed_over)]
        others = {name for name in state if not name.startswith((taken, passed_over))}
    if others:
        notes.append(f"left out, for they do not begin with {taken!r}: {bounds.listed(others)}")
    return kept, taken, tuple(notes)


def told(taken: str, passed_over: str) -> str:
    """A sentence about the choice between averaged weights and others, by key or prefix."""
    kind, other = ("averaged (EMA)", "raw") if choices.is_averaged(taken) else ("raw", "ema")
    return (
        f"the {kind} weights under {taken!r} were taken, not those under {passed_over!r}: "
        f"--weights {other} takes these (weights={other!r} in Python)"
    )


def _found(state: Mapping[str, Any]) -> set[str]:
    """Every prefix behind which all marks of a family stand."""
    found = set()
    for family in registry.FAMILIES.values():
        for name in state if family.marks else ():
            first = family.marks[0]
            prefix = name.removesuffix(first)
            if (
                name.endswith(first)
                and _is_prefix(prefix)
                and all(prefix + mark in state for mark in family.marks)
            ):
                found.add(prefix)
    return found


def _is_prefix(text: str) -> bool:
    """Whether it is empty, or names wrappers, each with a dot behind."""
    *parts, last = text.split(".")
    return last == "" and all(
        _WRAPPER.fullmatch(part) or choices.is_averaged(part) for part in parts
    )
