"""A reader that leaves is no error."""

import subprocess
import sys


def test_a_reader_that_leaves_is_no_error():
    """1 MB does not fit a pipe."""
    code = "from jaxpost.terminal import show; show('line\\n' * 200_000); show('more')"
    command = f"{sys.executable} -c \"{code}\" | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["line", "0"] and not done.stderr
