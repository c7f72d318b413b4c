# The first cell of every notebook: brings jaxpost where it is not, and installs what this runtime lacks or has too old.
# The address is a placeholder for where the repository will live.
import os
import pathlib
import subprocess
import sys

REPOSITORY = "https://github.com/jaxpost/jaxpost"

here = pathlib.Path.cwd()
root = next((p for p in (here, *here.parents) if (p / "experiments" / "run.py").is_file()), None)
if root is None:
    root = pathlib.Path("jaxpost").resolve()
    if not root.exists():
        subprocess.run(["git", "clone", "--depth=1", REPOSITORY, str(root)], check=True)
os.chdir(root)  # experiments and configs run from the clone
sys.path.insert(0, str(root))

from notebooks import runtime  # noqa: E402

runtime.ready(root)  # restarts Python if it replaced a package in use: then run the notebook again from here
