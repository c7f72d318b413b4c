"""Counting collectives in program text: trip counts, asynchronous pieces, tuples, host calls."""

from jaxpost import hlo

TEXT = """HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%inner_condition (p: (s32[])) -> pred[] {
  %limit = s32[]{:T(128)} constant(3)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%inner_body (p: (s32[])) -> (s32[]) {
  %g = bf16[4,8]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=1, dimensions={0}
}

%outer_condition (p: (s32[])) -> pred[] {
  %limit.1 = s32[] constant(5)
  ROOT %lt.1 = pred[] compare(%i.1, %limit.1), direction=LT
}

%outer_body (p: (s32[])) -> (s32[]) {
  %r = (f32[2,3]{1,0}, f32[7]{0}) all-reduce(%y, %z), channel_id=2, to_apply=%add
  %while.1 = (s32[]) while(%t), condition=%inner_condition, body=%inner_body
}

%until_all_done (p: (pred[])) -> pred[] {
  %any = u32[]{:T(128)} all-reduce(%flag), channel_id=3, to_apply=%add
  ROOT %not = pred[] not(%any)
}

%redraw (p: (pred[])) -> (pred[]) {
  ROOT %next = (pred[]) tuple(%flag)
}

%piece (p: f32[4]) -> f32[16] {
  %piece.1 = f32[16]{0} all-gather(%p), channel_id=4, dimensions={0}
}

ENTRY %main (p: f32[4]) -> f32[16] {
  %while.2 = (s32[]) while(%t), condition=%outer_condition, body=%outer_body
  %while.3 = (pred[]) while(%t), condition=%until_all_done, body=%redraw
  %f = f32[16]{0} fusion(%p), kind=kCustom, calls=%piece
  %f.1 = f32[16]{0} fusion(%p), kind=kCustom, calls=%piece
  %s = (f32[4]{0}, f32[16]{0}, u32[]) all-gather-start(%p), channel_id=5, dimensions={0}
}
"""


def test_loops_multiply_and_pieces_of_one_collective_count_once():
    found = hlo.collectives(TEXT)
    gathered = 5 * 3 * 4 * 8 * 2 + 2 * 16 * 4 + 16 * 4  # the inner loop, one fused twice executed, one started
    assert found["all-gather"] == {"instructions": 3, "executions": 18, "bytes": gathered, "largest_bytes": 64}
    assert found["all-reduce"] == {"instructions": 2, "executions": 6, "bytes": 5 * 13 * 4 + 4, "largest_bytes": 52}
    assert set(found) == {"all-gather", "all-reduce"}


def test_executions_of_a_data_dependent_loop_count_once():
    times = hlo.executions(TEXT)
    assert (times["inner_body"], times["outer_body"], times["redraw"], times["main"]) == (15, 5, 1, 1)


def test_a_condition_with_a_collective_is_a_vote():
    assert hlo.voting_loops(TEXT) == 1
    assert hlo.voting_loops(TEXT.replace("all-reduce(%flag)", "negate(%flag)")) == 0


def test_host_calls_are_named():
    assert hlo.host_calls(TEXT) == []
    text = TEXT + """  %i = (f32[2], token[]) infeed(%token)
  %c = f32[2] custom-call(%x), custom_call_target="xla_ffi_python_cpu_callback"
  %d = f32[2] custom-call(%x), custom_call_target="AllocateBuffer"
"""
    assert hlo.host_calls(text) == ["infeed", "xla_ffi_python_cpu_callback"]
