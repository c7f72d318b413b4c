"""Alarms of the compiler are taken out of standard error, and nothing else is."""

import io
import subprocess
import sys

from experiments import compiler_log

ALARM = b"""2026-01-02 03:04:05.678901: E xla/slow_operation_alarm.cc:73] Constant folding an instruction is taking > 1s:

  %reduce-window.4 = s32[9409,4]{1,0} reduce-window(%convert.1, %constant.2), window={size=1x4}, to_apply=%r

This isn't necessarily a bug; constant-folding is inherently a trade-off between compilation time and speed.

If you'd like to file a bug, run with envvar XLA_FLAGS=--xla_dump_to=/tmp/foo and attach the results.
E0102 03:04:06.000000   12 slow_operation_alarm.cc:140] The operation took 1.4s
Constant folding an instruction is taking > 1s:

  %reduce-window.4 = s32[9409,4]{1,0} reduce-window(%convert.1, %constant.2)
"""
SLOW = b"""E0102 03:04:06.000000   12 slow_operation_alarm.cc:73]
********************************
[Compiling module jit_run] Very slow compile? If you want to file a bug, run with envvar XLA_FLAGS=--xla_dump_to=/tmp/foo
********************************
"""
OTHER = b"W0102 03:04:06.000000   12 cpu_client.cc:9] something else\n  %indented = text\nF0102 check failed\n"


def test_alarms_go_to_the_log_and_everything_else_to_the_terminal(tmp_path):
    terminal, path = io.BytesIO(), tmp_path / "compiler.log"
    said = b"before\n\n  %is no alarm\n"
    given = said + ALARM + OTHER + SLOW + b"Traceback (most recent call last):\n"
    assert compiler_log.pump(io.BytesIO(given), terminal, path) == 3
    assert path.read_bytes() == ALARM + SLOW
    note = f"note: the compiler said 3 times that it was slow: {path}\n".encode()
    assert terminal.getvalue() == said + OTHER + b"Traceback (most recent call last):\n" + note


def test_without_a_folder_nothing_is_lost_and_without_alarms_nothing_is_made(tmp_path):
    terminal, path = io.BytesIO(), tmp_path / "later" / "compiler.log"
    compiler_log.pump(io.BytesIO(SLOW), terminal, path)
    assert terminal.getvalue() == SLOW and not path.parent.exists()
    compiler_log.pump(io.BytesIO(OTHER), io.BytesIO(), tmp_path / "compiler.log")
    assert not (tmp_path / "compiler.log").exists()


PROGRAM = """
import os, sys
from pathlib import Path
from experiments.compiler_log import CompilerLog
with CompilerLog(Path(sys.argv[1])):
    os.write(2, Path(sys.argv[2]).read_bytes())
    print("of Python", file=sys.stderr)
    os.write(2, b"of C\\n")
    if sys.argv[3] == "abort":
        os.abort()
print("after", file=sys.stderr)
"""


def test_a_process_that_aborts_has_said_all_it_said(tmp_path):
    given, path = tmp_path / "given", tmp_path / "compiler.log"
    given.write_bytes(ALARM)
    for how, ends in (("return", ["after"]), ("abort", [])):
        done = subprocess.run([sys.executable, "-c", PROGRAM, path, given, how], capture_output=True, timeout=60)
        lines = done.stderr.decode().splitlines()
        assert (done.returncode == 0) == (how == "return")
        assert {"of Python", "of C", *ends} <= set(lines) and not any("slow_operation" in line for line in lines)
    assert path.read_bytes() == 2 * ALARM


def test_the_end_of_another_process_is_one_line(tmp_path):
    terminal, path = io.BytesIO(), tmp_path / "compiler.log"
    given = (b"E1130 02:02:21.528453   30529 coordination_service.cc:1520] [7326] Shutdown barrier has failed:\nINTERNAL: no\n"
             b"F1130 02:02:21.528972   30524 client.h:80] Terminating process because the JAX distributed service detected "
             b"fatal errors.\n\nRPC: /xla\n*** Check failure stack trace: ***\n    @     0x7fb5a7440634  absl::Flush()\n")
    compiler_log.pump(io.BytesIO(b"before\n" + given), terminal, path)
    assert path.read_bytes() == given
    assert terminal.getvalue().startswith(b"before\nerror: another process of this run ended") and terminal.getvalue().count(
        b"\n") == 2
