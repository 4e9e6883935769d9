"""Kernels read in texts of compiled programs: small ones written here, and one of this machine."""

import jax
import jax.numpy as jnp
import pytest
from helpers import tiny

from esam_jax.config import ComputeConfig
from esam_jax.models import flops
from esam_jax.models.sam import network
from esam_jax.plan import compiled_kernels

GEMM = """\
HloModule m

ENTRY %main (x: bf16[8,16], w: bf16[16,32], c: bf16[8,32], b: bf16[32]) -> bf16[8,32] {
  %x = bf16[8,16]{1,0} parameter(0)
  %w = bf16[16,32]{1,0} parameter(1)
  %c = bf16[8,32]{1,0} parameter(2)
  %b = bf16[32]{0} parameter(3)
  %gemm = (bf16[8,32]{1,0}, s8[4096]{0}) custom-call(%x, %w, %c, %b), \
custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(f)/Sam/block_07/mlp/dot_general"}, \
backend_config={"gemm_backend_config":{"beta":1,"dot_dimension_numbers":\
{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]},\
"precision_config":{"operand_precision":["DEFAULT","DEFAULT"]},"epilogue":"BIAS"}}
  ROOT %y = bf16[8,32]{1,0} get-tuple-element(%gemm), index=0
}
"""

ATTENTION = """\
HloModule m

ENTRY %main (q: bf16[2,148,3,32], k: bf16[2,196,3,32], v: bf16[2,196,3,32]) -> bf16[2,3,148,32] {
  %q = bf16[2,148,3,32]{3,2,1,0} parameter(0)
  %k = bf16[2,196,3,32]{3,2,1,0} parameter(1)
  %v = bf16[2,196,3,32]{3,2,1,0} parameter(2)
  %a = (bf16[2,3,148,32]{3,1,2,0}, u8[64]{0}) custom-call(%q, %k, %v), \
custom_call_target="__cudnn$fmhaSoftmaxTARGET"
  ROOT %y = bf16[2,3,148,32]{3,1,2,0} get-tuple-element(%a), index=0
}
"""

LOOP = """\
HloModule m

%fused_slice (stack: f32[12,4,8], i: s32[]) -> bf16[4,8] {
  %stack = f32[12,4,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,4,8]{2,1,0} dynamic-slice(%stack, %i, %zero, %zero), dynamic_slice_sizes={1,4,8}
  %flat = f32[4,8]{1,0} bitcast(%one), metadata={op_name="jit(f)/norm/reshape"}
  ROOT %half = bf16[4,8]{1,0} convert(%flat)
}

%fused_write (all: f32[12,4,8], new: f32[4,8], i: s32[]) -> f32[12,4,8] {
  %all = f32[12,4,8]{2,1,0} parameter(0)
  %new = f32[4,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,4,8]{2,1,0} bitcast(%new)
  ROOT %updated = f32[12,4,8]{2,1,0} dynamic-update-slice(%all, %row, %i, %zero, %zero)
}

%fused_dot (a: f32[2,4], b: f32[4,8]) -> f32[2,8] {
  %a = f32[2,4]{1,0} parameter(0)
  %b = f32[4,8]{1,0} parameter(1)
  ROOT %d = f32[2,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}, \
operand_precision={highest,highest}
}

%body (t: (s32[], f32[12,4,8], f32[4,8], f32[2,4])) -> (s32[], f32[12,4,8], f32[4,8], f32[2,4]) {
  %t = (s32[], f32[12,4,8]{2,1,0}, f32[4,8]{1,0}, f32[2,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %stack = f32[12,4,8]{2,1,0} get-tuple-element(%t), index=1
  %new = f32[4,8]{1,0} get-tuple-element(%t), index=2
  %a = f32[2,4]{1,0} get-tuple-element(%t), index=3
  %cut = bf16[4,8]{1,0} fusion(%stack, %i), kind=kLoop, calls=%fused_slice
  %put = f32[12,4,8]{2,1,0} fusion(%stack, %new, %i), kind=kLoop, calls=%fused_write
  %dot = f32[2,8]{1,0} fusion(%a, %new), kind=kCustom, calls=%fused_dot
  ROOT %out = (s32[], f32[12,4,8]{2,1,0}, f32[4,8]{1,0}, f32[2,4]{1,0}) tuple(%i, %put, %new, %a)
}

%condition (t: (s32[], f32[12,4,8], f32[4,8], f32[2,4])) -> pred[] {
  %t = (s32[], f32[12,4,8]{2,1,0}, f32[4,8]{1,0}, f32[2,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %n = s32[] constant(12)
  ROOT %less = pred[] compare(%i, %n), direction=DIRECTION
}

ENTRY %main (t: (s32[], f32[12,4,8], f32[4,8], f32[2,4])) -> f32[12,4,8] {
  %t = (s32[], f32[12,4,8]{2,1,0}, f32[4,8]{1,0}, f32[2,4]{1,0}) parameter(0)
  %w = (s32[], f32[12,4,8]{2,1,0}, f32[4,8]{1,0}, f32[2,4]{1,0}) while(%t), \
condition=%condition, body=%bodyTRIPS
  %sum = f32[12,4,8]{2,1,0} get-tuple-element(%w), index=1
  %s = f32[12,4,8]{2,1,0} all-reduce(%sum), replica_groups={}, to_apply=%add
  ROOT %copy = f32[12,4,8]{2,1,0} copy(%s)
}
"""


def test_a_product_of_the_library():
    """Residual and bias are read with it; the workspace is no traffic."""
    (gemm,) = compiled_kernels.parse(GEMM)
    assert (gemm.kind, gemm.dtype, gemm.exact, gemm.runs) == ("product", "bf16", False, 1)
    assert gemm.flops == 2 * 8 * 32 * 16
    assert gemm.bytes == 2 * (8 * 16 + 16 * 32 + 8 * 32 + 32 + 8 * 32)
    assert gemm.where.endswith("block_07/mlp/dot_general")
    (exact,) = compiled_kernels.parse(GEMM.replace("DEFAULT", "HIGHEST"))
    assert exact.exact


@pytest.mark.parametrize(("target", "products"), [("", 2), ("Backward", 5)])
def test_attention(target, products):
    (found,) = compiled_kernels.parse(ATTENTION.replace("TARGET", target))
    pairs = 2 * 3 * 148 * 196
    assert (found.kind, found.exponentials) == ("attention", pairs)
    assert found.flops == products * 2 * pairs * 32
    assert found.bytes == 2 * 2 * 3 * 32 * (148 + 196 + 196 + 148)


@pytest.mark.parametrize(
    ("trips", "direction", "runs"),
    [
        (', backend_config={"known_trip_count":{"n":"12"}}', "GT", 12),
        ("", "LT", 12),  # as a TPU's compiler writes it
        ("", "GT", None),
    ],
)
def test_loops_cuts_and_updates(trips, direction, runs):
    """Of a stack that is cut one row is read, and of one that is updated in place one written."""
    kernels = compiled_kernels.parse(LOOP.replace("TRIPS", trips).replace("DIRECTION", direction))
    cut, put, dot, copy = kernels
    assert {each.runs for each in (cut, put, dot)} == {runs or 1}
    assert all(each.loops_unknown is (runs is None) for each in (cut, put, dot))
    assert copy.runs == 1 and copy.kind == "pass" and copy.bytes == 2 * 4 * 12 * 4 * 8
    index = 4
    assert (cut.where, put.where) == ("jit(f)/norm/reshape", "")  # of what is in a fusion
    assert cut.bytes == 4 * 4 * 8 + index + 2 * 4 * 8
    assert put.bytes == 4 * 4 * 8 + index + 4 * 4 * 8
    assert (dot.kind, dot.flops, dot.dtype, dot.exact) == ("product", 2 * 2 * 8 * 4, "f32", True)


def test_a_loop_whose_length_is_data_runs_as_often_as_is_said():
    named = ', metadata={op_name="jit(f)/clicks/tiles/while"}'
    text = LOOP.replace("TRIPS", named).replace("DIRECTION", "GT")
    for trips, runs in (({"clicks": 5}, 5), ({"clicks": 5, "tiles": 3}, 3), ({"others": 5}, None)):
        cut = compiled_kernels.parse(text, trips)[0]
        assert (cut.runs, cut.loops_unknown) == (runs or 1, runs is None)


SCATTER = """HloModule m, is_scheduled=true

%last (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %b = f32[] parameter(1)
}

%fused (all: f32[90,4], rows: s32[3,1], new: f32[3,4]) -> f32[90,4] {
  %all = f32[90,4]{1,0} parameter(0)
  %rows = s32[3,1]{1,0} parameter(1)
  %new = f32[3,4]{1,0} parameter(2)
  ROOT %put = f32[90,4]{1,0} scatter(%all, %rows, %new), update_window_dims={1}, \
inserted_window_dims={0}, scatter_dims_to_operand_dims={0}, index_vector_dim=1, to_apply=%last
}

ENTRY %main (all: f32[90,4], rows: s32[3,1], new: f32[3,4]) -> f32[90,4] {
  %all = f32[90,4]{1,0} parameter(0)
  %rows = s32[3,1]{1,0} parameter(1)
  %new = f32[3,4]{1,0} parameter(2)
  ROOT %out = f32[90,4]{1,0} fusion(%all, %rows, %new), kind=kInput, calls=%fused
}
"""


def test_of_what_is_scattered_the_new_rows_are_moved():
    [kernel] = compiled_kernels.parse(SCATTER)
    assert kernel.bytes == 4 * 3 + 2 * 4 * 3 * 4  # places; rows, read and written


def test_of_two_branches_one_runs():
    text = """\
%few (x: f32[4]) -> f32[4] {
  ROOT %x = f32[4]{0} parameter(0)
}

%many (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  ROOT %c = f32[4]{0} copy(%x)
}

ENTRY %main (p: pred[], x: f32[4]) -> f32[4] {
  %p = pred[] parameter(0)
  %x = f32[4]{0} parameter(1)
  ROOT %y = f32[4]{0} conditional(%p, %x, %x), true_computation=%few, false_computation=%many
}
"""
    (copy,) = compiled_kernels.parse(text)
    assert copy.bytes == 32


def test_a_convolution():
    text = """\
ENTRY %main (x: bf16[1,8,8,16], w: bf16[3,3,16,32]) -> bf16[1,8,8,32] {
  %x = bf16[1,8,8,16]{3,2,1,0} parameter(0)
  %w = bf16[3,3,16,32]{3,2,1,0} parameter(1)
  ROOT %y = bf16[1,8,8,32]{3,2,1,0} convolution(%x, %w), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_01io->b01f
}
"""
    (found,) = compiled_kernels.parse(text)
    assert found.flops == 2 * 8 * 8 * 32 * 9 * 16


def test_products_of_a_program_of_this_machine_are_those_of_its_jaxpr():
    """A decoder, whose plain products JAX and the compiled text count alike."""
    config = tiny.config("sam")
    model = network.Sam(config, ComputeConfig(attention="xla"))
    points, labels = jnp.zeros((1, 3, 2, 2)), jnp.ones((1, 3, 2), jnp.int32)
    embedding = jnp.zeros((1, 5, 5, 16))

    def decode(params, *arrays):
        return model.apply({"params": params}, *arrays, method="decode")

    arguments = (tiny.params(config), embedding, points, labels)
    text = jax.jit(decode).lower(*arguments).compile().as_text()
    found = sum(each.runs * each.flops for each in compiled_kernels.parse(text))
    # What is constant is folded, and a product with few rows may become a sum of products.
    assert found == pytest.approx(flops.count(decode, *arguments), rel=0.1)
