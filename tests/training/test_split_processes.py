"""Two real processes with two devices each: every one reads, verifies and gives back its own rows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.launch import free_port

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_each_process_holds_its_own_rows():
    port = str(free_port())
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
                   "PYTHONPATH": str(ROOT)}
    started = [subprocess.Popen([sys.executable, Path(__file__).with_name("two_processes.py"), port, rank], env=environment,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for rank in ("0", "1")]
    try:
        for process in started:
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0 and "agreed" in out, err
    finally:
        for process in started:
            process.kill()
