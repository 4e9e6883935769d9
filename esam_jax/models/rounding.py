"""The types in which a program reads its parameters: what is rounded once need not be in each call.

A network in bfloat16 has float32 parameters, and rounds most of them before anything else: kernels
and biases of products. Others it reads as they are: norms, tables of positions, the last product of
the scores. Which is which is read in its jaxpr, so that no network needs a list.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from esam_jax.typing import Params

# What moves numbers and changes none: rounding may as well come before.
_MOVES = frozenset(
    (
        *("reshape", "transpose", "squeeze", "broadcast_in_dim", "slice", "copy"),
        *("concatenate", "stack", "tile"),
    )
)

_Leaves = frozenset[int]  # places of the parameters that an array is made of
_NONE: _Leaves = frozenset()


def dtypes(function: Callable[..., Any], params: Params, *args: Any) -> Params:
    """For each parameter the type that it may have for `function` to give the same.

    It is a narrower one where `function(params, *args)` does nothing with the parameter but round
    it to that type, and its own otherwise. Every argument may be abstract.
    """
    leaves, tree = jax.tree.flatten(params)
    program = jax.make_jaxpr(lambda *args: function(*args))(params, *args).jaxpr
    reads: list[set[Any]] = [set() for _ in leaves]
    own = [frozenset((i,)) for i in range(len(leaves))]
    given = [*own, *[_NONE] * (len(program.invars) - len(leaves))]
    results = _follow(program, given, reads)
    _note(reads, results, program.outvars)
    return tree.unflatten(
        [_narrower(leaf.dtype, read) for leaf, read in zip(leaves, reads, strict=True)]
    )


def rounded(params: Params, dtypes: Params) -> Params:
    """`params` in these types; each array stays what it is, of the host or of a device."""
    return jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), params, dtypes)


def _narrower(own: Any, read: set[Any]) -> Any:
    if len(read) != 1:
        return own
    (dtype,) = read
    both_real = all(jnp.issubdtype(each, jnp.floating) for each in (own, dtype))
    return dtype if both_real and dtype.itemsize < own.itemsize else own


def _follow(jaxpr: core.Jaxpr, given: Sequence[_Leaves], reads: list[set[Any]]) -> list[_Leaves]:
    """What the results are made of; `reads` gains the types in which parameters are read."""
    made_of: dict[Any, _Leaves] = dict(zip(jaxpr.invars, given, strict=True))

    def of(variables: Sequence[Any]) -> list[_Leaves]:
        constant = core.Literal
        return [_NONE if isinstance(v, constant) else made_of.get(v, _NONE) for v in variables]

    for equation in jaxpr.eqns:
        operands, name = of(equation.invars), equation.primitive.name
        inner = list(core.jaxprs_in_params(equation.params))
        if not any(operands):
            continue
        if name == "convert_element_type":
            _note(reads, operands, equation.outvars)
        elif name in _MOVES:
            made_of[equation.outvars[0]] = _NONE.union(*operands)
        elif len(inner) == 1 and len(inner[0].invars) == len(operands):
            loop = name == "scan"
            if loop:  # what is carried has one type in all rounds
                carried = _carried(equation, inner[0])
                _note(reads, operands[carried], equation.invars[carried])
            results = _follow(inner[0], operands, reads)
            if loop or len(results) != len(equation.outvars):
                _note(reads, results, inner[0].outvars)
            else:
                made_of.update(zip(equation.outvars, results, strict=True))
        else:
            _note(reads, operands, equation.invars)
    return of(jaxpr.outvars)


def _carried(scan: core.JaxprEqn, round_: core.Jaxpr) -> slice:
    """Which operands of a loop are its state: those between constants and what is cut in slices.

    By their ranks, since each version of JAX counts them under another name: a slice, of operands
    and of results, has one axis less in a round than outside.
    """

    def same(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        pairs = zip(outside, inside, strict=True)
        return sum(one.aval.ndim == other.aval.ndim for one, other in pairs)

    state, first_slice = same(scan.outvars, round_.outvars), same(scan.invars, round_.invars)
    return slice(first_slice - state, first_slice)


def _note(reads: list[set[Any]], made_of: Sequence[_Leaves], variables: Sequence[Any]) -> None:
    """Parameters are read in the types of these variables."""
    for leaves, variable in zip(made_of, variables, strict=True):
        for leaf in leaves:
            reads[leaf].add(variable.aval.dtype)
