"""Two or more checkpoints on disk -> a measurement bundle and its report, streamed.

    columns = compare("BASE", "TUNED")                       rows, in memory
    python -m jaxpost.compare BASE TUNED --out report/       bundle, report, figures
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # matrices run side by side, one thread each; before numpy is loaded

from jaxpost.compare.comparison import Settings, compare, run  # noqa: E402
from jaxpost.compare.errors import CompareError  # noqa: E402

__all__ = ["CompareError", "Settings", "compare", "run"]
