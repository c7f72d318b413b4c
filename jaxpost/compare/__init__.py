"""Two or more checkpoints on disk -> a measurement bundle and its report, streamed.

    print(compare("BASE", "TUNED").headline())               in memory: rows, and what they say
    python -m jaxpost.compare BASE TUNED --out report/       bundle, report, figures
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # matrices run side by side, one thread each; before numpy is loaded

from jaxpost.compare.comparison import Settings, compare, run  # noqa: E402
from jaxpost.compare.errors import CompareError  # noqa: E402
from jaxpost.compare.result import Comparison  # noqa: E402

__all__ = ["CompareError", "Comparison", "Settings", "compare", "run"]
