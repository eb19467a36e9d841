"""What is counted in a compiled program, and that the benchmark goes on where it stopped."""

import json
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from benchmarks import accelerator_program as benchmark
from benchmarks.hlo import count, size_of, untiled
from flaxyolo.cost import gpu
from flaxyolo.cost.gpu import PLUGINS
from flaxyolo.data import augment
from flaxyolo.nn import nms
from flaxyolo.training import assign

installed = any(map(find_spec, PLUGINS))

PROGRAM = """HloModule made_up, is_scheduled=true

%one_row (p.0: f32[8,10], p.1: s32[], p.2: f32[8,10]) -> f32[8,10] {
  %p.0 = f32[8,10]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %p.2 = f32[8,10]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,10]{1,0} dynamic-slice(%p.0, %p.1, /*index=2*/%zero), dynamic_slice_sizes={1,10}
  %twice = f32[1,10]{1,0} add(%row, %row)
  ROOT %put = f32[8,10]{1,0} dynamic-update-slice(%p.2, %twice, %p.1, %zero)
}

%add_one (p.3: s32[]) -> s32[] {
  %p.3 = s32[] parameter(0)
  %one = s32[] constant(1)
  ROOT %next = s32[] add(%p.3, %one)
}

%body (state: (s32[], f32[8,10], f32[8,10])) -> (s32[], f32[8,10], f32[8,10]) {
  %state = (s32[], f32[8,10]{1,0}, f32[8,10]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  %x = f32[8,10]{1,0} get-tuple-element(%state), index=1
  %y = f32[8,10]{1,0} get-tuple-element(%state), index=2
  %rows = f32[8,10]{1,0} fusion(%x, %n, %y), kind=kLoop, calls=%one_row, metadata={op_name="a(b)"}
  %more = s32[] fusion(%n), kind=kLoop, calls=%add_one
  ROOT %all = (s32[], f32[8,10]{1,0}, f32[8,10]{1,0}) tuple(%more, %x, %rows)
}

%condition (state.1: (s32[], f32[8,10], f32[8,10])) -> pred[] {
  %state.1 = (s32[], f32[8,10]{1,0}, f32[8,10]{1,0}) parameter(0)
  %n.1 = s32[] get-tuple-element(%state.1), index=0
  %eight = s32[] constant(8)
  ROOT %less = pred[] compare(%n.1, %eight), direction=LT
}

ENTRY %main (x.1: f32[8,10], y.1: f32[8,10]) -> f32[8,10] {
  %x.1 = f32[8,10]{1,0} parameter(0)
  %y.1 = f32[8,10]{1,0} parameter(1)
  %n.2 = s32[] constant(0)
  %start = (s32[], f32[8,10]{1,0}, f32[8,10]{1,0}) tuple(%n.2, %x.1, %y.1)
  %loop = (s32[], f32[8,10], f32[8,10]) while(%start), condition=%condition, body=%body@
  %z = f32[8,10]{1,0} get-tuple-element(%loop), index=2
  %call = (bf16[10,10]{1,0}, u8[16]{0}) custom-call(%z, %x.1), custom_call_target="a library's"
  ROOT %back = f32[8,10]{1,0} copy(%z)
}
"""
KNOWN = ', backend_config={"known_trip_count":{"n":"8"}}'


def test_a_loop_counts_as_often_as_it_runs_and_what_it_reads_in_part_in_part():
    counts = count(PROGRAM.replace("@", KNOWN))
    assert [loop.trips for loop in counts.loops] == [8]
    assert counts.kernels == {"fusion": 16, "custom-call": 1, "copy": 1}
    # A row read and one written, and a number; a number read and one written.
    in_loop = 8 * (40 + 4 + 40 + 4 + 4)
    assert counts.bytes == in_loop + (200 + 16 + 2 * 320) + 2 * 320


def test_of_a_loop_without_a_known_end_one_pass_and_one_question_count():
    counts = count(PROGRAM.replace("@", ""))
    assert [loop.trips for loop in counts.loops] == [None]
    assert counts.kernels == {"fusion": 2, "compare": 1, "custom-call": 1, "copy": 1}


def test_the_text_of_a_real_program_is_read():
    def program(x):
        return lax.map(lambda row: jnp.sort(row) * 2, x).sum()

    compiled = jax.jit(program).lower(jax.ShapeDtypeStruct((5, 300), jnp.float32)).compile()
    counts = count(compiled.as_text())
    assert [loop.trips for loop in counts.loops] == [5]
    assert counts.kernels.total() >= 6
    assert counts.bytes >= 5 * 300 * 4


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="found no ENTRY"):
        count("HloModule nothing")
    with pytest.raises(ValueError, match="not an operation of HLO"):
        count("ENTRY %main () -> f32[] {\n  nonsense\n}\n")


def test_sizes_are_those_of_the_types():
    assert size_of("(bf16[2,3]{1,0}, pred[7], f8e4m3fn[5], s32[])") == 12 + 7 + 5 + 4


def test_on_a_tpu_an_array_takes_whole_tiles():
    # The last dimension of the order lies outermost: 3 x 3 x 16 rows of 20 in tiles of 8 x 128.
    shape = "(f32[3,3,20,16]{2,3,1,0:T(8,128)S(1)}, u32[]{:S(2)}, bf16[100]{0:T(128)(2,1)})"
    assert size_of(shape) == 3 * 3 * 16 * 128 * 4 + 4 + 128 * 2
    assert size_of(untiled(shape)) == 3 * 3 * 20 * 16 * 4 + 4 + 100 * 2


def test_a_tpus_operations_are_read():
    """Tuples in tuples, layouts with parentheses, and ends of what runs beside the rest."""
    counts = count(
        """ENTRY %main (x: f32[8,128]) -> f32[4,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %begin = ((f32[8,128]{1,0:T(8,128)}), f32[4,128]{1,0:T(4,128)S(1)}, s32[]{:S(2)}) slice-start(%x)
  ROOT %end = f32[4,128]{1,0:T(4,128)S(1)} slice-done(%begin), metadata={op_name="f(x)"}
}
"""
    )
    assert counts.kernels == {"slice-start": 1}
    assert counts.loops == []


def kept(monkeypatch):
    """The forms of this process come back after the test."""
    for module, name in ((augment, "of_each"), (assign, "in_chunks"), (nms, "all_at_once")):
        monkeypatch.setattr(module, name, getattr(module, name))


def test_the_loops_that_it_compares_with_are_those_of_a_cpu(monkeypatch):
    kept(monkeypatch)
    benchmark.take_loops()
    assert augment.of_each is lax.map
    assert assign.in_chunks is assign.one_by_one
    assert nms.all_at_once is nms.by_blocks


def test_it_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    asked = []

    def child(module, *arguments, given, **rest):
        asked.append(json.loads(given))
        if len(asked) == 3:
            raise KeyboardInterrupt
        counted = {"loops": 1, "loops_without_known_end": 0, "kernels": 7}
        return json.dumps(asked[-1] | counted | {"bytes": 2e9, "memory_mib": 3.0, "compile_s": 4.0})

    monkeypatch.setattr(benchmark, "run_module", child)
    monkeypatch.setattr(gpu.GpuTarget, "require_packages", lambda self: None)
    out = tmp_path / "counts.json"
    flags = ["x", "--networks", "yolov8n", "--batches", "2", "--json", str(out)]
    monkeypatch.setattr("sys.argv", flags)
    with pytest.raises(KeyboardInterrupt):
        benchmark.main()
    assert len(json.loads(out.read_text())["rows"]) == 2
    benchmark.main()
    # The third is asked once more, and the first two are not.
    assert len(asked) == 7
    rows = json.loads(out.read_text())["rows"]
    assert [(row["program"], row["form"]) for row in rows] == [
        (program, form) for program in ("detect", "step", "nms") for form in benchmark.FORMS
    ]
    assert (
        "| detect | yolov8n | 1 | loops | 1 | 0 | 7 | 2.000 | 2.000 | 3 | 4 |"
        in capsys.readouterr().out
    )


@pytest.mark.slow
@pytest.mark.skipif(not installed, reason="needs JAX's CUDA packages (no GPU)")
def test_nms_for_a_gpu_that_is_not_there_has_one_loop_for_that_of_every_block(
    tmp_path, monkeypatch
):
    out = tmp_path / "counts.json"
    flags = ["x", "--programs", "nms", "--networks", "yolov8n", "--batches", "2", "--size", "128"]
    monkeypatch.setattr("sys.argv", [*flags, "--json", str(out)])
    benchmark.main()
    loops, whole = json.loads(out.read_text())["rows"]
    # 336 anchor points: two blocks of 128, and the rest.
    assert (loops["loops_without_known_end"], whole["loops_without_known_end"]) == (3, 1)
    assert 0 < whole["kernels"] < loops["kernels"]
