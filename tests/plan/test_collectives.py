import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from esam_jax.plan import collectives
from esam_jax.plan.collectives import Collective

# What XLA writes, cut down: loops whose length is written down (GPU, CPU), or follows from their
# condition (TPU), and one of unknown length; synchronous and
# asynchronous operations, a tuple, and a collective inside a fusion.
TEXT = """\
HloModule jit_update, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%body (state: (s32[], f32[16,4])) -> (s32[], f32[16,4]) {
  %state = (s32[], f32[16,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %part = f32[2,4]{1,0} slice(%state), slice={[0:2], [0:4]}
  %whole = f32[16,4]{1,0} all-gather(%part), channel_id=2, replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %next = (s32[], f32[16,4]{1,0}) tuple(%i, %whole)
}

%endless (state: (s32[], f32[16,4])) -> (s32[], f32[16,4]) {
  %state.1 = (s32[], f32[16,4]{1,0}) parameter(0)
  %moved = f32[16,4]{1,0} collective-permute(%state.1), source_target_pairs={{0,1},{1,0}}
  ROOT %next.1 = (s32[], f32[16,4]{1,0}) tuple(%state.1, %moved)
}

%short (state: (s32[], f32[16,4])) -> pred[] {
  %length = s32[]{:T(128)} constant(3)
  %state.3 = (s32[], f32[16,4]{1,0:T(8,128)S(1)}) parameter(0)
  %i.3 = s32[]{:T(128)} get-tuple-element(%state.3), index=0
  ROOT %less = pred[]{:T(512)} compare(%i.3, %length), direction=LT
}

%condition (state: (s32[], f32[16,4])) -> pred[] {
  %state.2 = (s32[], f32[16,4]{1,0}) parameter(0)
  ROOT %more = pred[] constant(true)
}

%scattered (x: bf16[64,3]) -> bf16[8,3] {
  %input = bf16[64,3]{1,0} parameter(0)
  ROOT %piece = bf16[8,3]{1,0} reduce-scatter(%input), dimensions={0}, to_apply=%add
}

ENTRY %main (a: f32[16,4], b: bf16[64,3]) -> f32[16,4] {
  %a = f32[16,4]{1,0} parameter(0)
  %b = bf16[64,3]{1,0} parameter(1)
  %scalar = f32[] constant(0)
  %sum-start = (f32[16,4]{1,0}, f32[]) all-reduce-start(%a, %scalar), to_apply=%add
  %sum-done = (f32[16,4]{1,0}, f32[]) all-reduce-done(%sum-start)
  %start = (s32[], f32[16,4]{1,0}) tuple(%scalar, %a)
  %loop = (s32[], f32[16,4]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %loop.1 = (s32[], f32[16,4]{1,0}) while(%loop), condition=%condition, body=%endless
  %loop.2 = (s32[], f32[16,4]{1,0}) while(%loop.1), condition=%short, body=%body
  %fused = bf16[8,3]{1,0} fusion(%b), kind=kCustom, calls=%scattered
  %gather-start = (bf16[8,3]{1,0}, bf16[64,3]{1,0}) all-gather-start(%fused), dimensions={0}
  %gather-done = bf16[64,3]{1,0} all-gather-done(%gather-start)
  ROOT %out = f32[16,4]{1,0} get-tuple-element(%loop.1), index=1
}
"""  # noqa: E501


def test_loops_fusions_and_halves_are_counted_once_each():
    assert collectives.parse(TEXT) == (
        Collective("all-reduce", 1, 16 * 4 * 4 + 4),
        Collective("all-gather", 5 + 3 + 1, (5 + 3) * 16 * 4 * 4 + 64 * 3 * 2),
        Collective("reduce-scatter", 1, 64 * 3 * 2),
        Collective("collective-permute", 1, 4 + 16 * 4 * 4, loops_unknown=1),
    )


def test_a_program_without_any():
    text = jax.jit(jnp.sin).lower(1.0).compile().as_text()
    assert collectives.parse(text) == ()


@pytest.mark.parametrize("rounds", [1, 3])
def test_what_the_compiler_writes_today(rounds):
    """The sum over eight devices of [6, 5] numbers each, once or in a loop."""
    mesh = jax.make_mesh((8,), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))

    @functools.partial(jax.jit, in_shardings=split)
    def total(x_ND):
        def add(sums, scale):
            return sums + (scale * x_ND).sum(0), None

        return jax.lax.scan(add, jnp.zeros((6, 5)), jnp.arange(1.0, rounds + 1))[0]

    x = jax.ShapeDtypeStruct((8, 6, 5), np.float32, sharding=split)
    found = collectives.parse(total.lower(x).compile().as_text())
    (reduction,) = [each for each in found if each.kind == "all-reduce"]
    assert reduction.bytes == reduction.count * 6 * 5 * 4
    assert reduction.count in (1, rounds)  # a compiler may add up first and send once
