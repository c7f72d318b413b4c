"""The columns of a measurement bundle: one row is one scalar, and every reader and writer agrees here.

`measurements.parquet` is long and at most 30 columns wide; what is constant for a metric lives once in
`metrics.parquet`; wall times and memory live in `costs.parquet` and never beside a scientific value.
"""

import pyarrow as pa

SCHEMA_VERSION = "1.1"  # 1.1: granularity "layer"; in 1.0 a layer was "body" with `layer` set
FINISHED_SHARD = "finished"  # the replicates of a bundle that was reopened for more of them

MEASUREMENTS = pa.schema(
    [
        ("row_id", pa.string()),  # 16 hex digits: SHA-256 of the key columns
        ("metric", pa.string()),  # dotted id, e.g. weight.rotation.mean_sin2
        ("arm", pa.string()),  # "a - b" for a contrast
        ("role", pa.string()),  # one of ROLES
        ("of", pa.string()),  # the row_id that a null or a contrast belongs to
        ("step", pa.int64()),  # optimizer step
        ("seed", pa.int64()),  # the replicate; null for estimates
        ("granularity", pa.string()),  # one of GRANULARITIES
        ("tensor", pa.string()),  # the matrix, at granularity "tensor"
        ("module_kind", pa.string()),  # q k v o gate up down router embed head norm
        ("layer", pa.int64()),  # counted from 0, at granularity "layer" and of a "tensor" in one
        ("side", pa.string()),  # one of SIDES
        ("k", pa.int64()),  # subspace dimension
        ("params", pa.string()),  # sorted "key=value;key=value"
        ("split", pa.string()),  # id, ood/<knob>, second
        ("dtype", pa.string()),  # the dtype the statistic was read in; null for policy rows
        ("value", pa.float64()),
        ("status", pa.string()),  # one of STATUSES
        ("status_reason", pa.string()),
        ("ci_lo", pa.float64()),  # 95 % interval over `unit`; null where n_units is 1
        ("ci_hi", pa.float64()),
        ("n_units", pa.int64()),
        ("unit", pa.string()),  # what was randomised: seed, base, pair
        ("null_kind", pa.string()),  # the primary null of the row (of the null row itself in role "null")
        ("null_value", pa.float64()),
        ("null_lo", pa.float64()),
        ("null_hi", pa.float64()),
        ("noise_floor", pa.float64()),  # what storage rounding alone would read
        ("num_err", pa.float64()),  # numerical error bound of the algorithm
        ("conditional_on", pa.string()),  # digest of the base; null only where several bases were averaged
    ],
    metadata={"schema": f"jaxpost.measurements/{SCHEMA_VERSION}"},
)

METRICS = pa.schema(
    [
        ("metric", pa.string()),
        ("version", pa.string()),
        ("definition", pa.string()),
        ("unit", pa.string()),
        ("paper", pa.string()),
        ("null", pa.string()),
        ("pooling", pa.string()),
        ("algorithm", pa.string()),
        ("ci_method", pa.string()),
        ("higher_is_better", pa.bool_()),
        ("domain", pa.string()),  # "[0, 1]": intervals and bands are cut there; "open: why not"; null: any real number
    ],
    metadata={"schema": f"jaxpost.metrics/{SCHEMA_VERSION}"},
)

COSTS = pa.schema(
    [
        ("phase", pa.string()),  # base, train, measure, ...
        ("arm", pa.string()),
        ("step", pa.int64()),
        ("quantity", pa.string()),  # one of COST_UNITS
        ("value", pa.float64()),
        ("unit", pa.string()),
    ],
    metadata={"schema": f"jaxpost.costs/{SCHEMA_VERSION}"},
)

TENSORS = pa.schema(
    [
        ("checkpoint", pa.string()),  # "base", or "<arm>/seed<seed>"
        ("tensor", pa.string()),
        ("module_kind", pa.string()),
        ("layer", pa.int64()),
        ("shape", pa.string()),  # "64x256"
        ("dtype", pa.string()),
        ("n_elements", pa.int64()),
        ("sha256", pa.string()),  # of the raw bytes
        ("n_nonfinite", pa.int64()),
        ("max_abs", pa.float64()),
        ("rms", pa.float64()),
        ("compared", pa.bool_()),
        ("reason", pa.string()),  # why it was not compared
    ],
    metadata={"schema": f"jaxpost.tensors/{SCHEMA_VERSION}"},
)

# What identifies a row. A tensor determines its kind and its layer; rows of granularity "kind" have no tensor, so
# both are part of the identity. `null_kind` joins for rows of role "null".
KEY_COLUMNS = (
    "metric",
    "arm",
    "role",
    "of",
    "step",
    "seed",
    "granularity",
    "tensor",
    "module_kind",
    "layer",
    "side",
    "k",
    "params",
    "split",
    "dtype",
    "conditional_on",
)
SORT_COLUMNS = ("metric", "arm", "role", "step", "seed", "granularity", "tensor", "row_id")

ROLES = ("seed", "estimate", "null", "contrast", "claim")
GRANULARITIES = ("tensor", "kind", "layer", "body", "global", "policy", "experiment")
SIDES = ("left", "right", "both", "none")
DTYPES = ("fp32", "bf16")
STATUSES = ("ok", "nan", "absent", "degenerate", "unresolved")
ENUMS = {"role": ROLES, "granularity": GRANULARITIES, "side": SIDES, "dtype": DTYPES, "status": STATUSES}
REQUIRED = ("metric", "role", "granularity")

COST_UNITS = {
    "wall_s": "s",
    "compile_s": "s",
    "steps": "1",
    "tokens": "1",
    "examples": "1",
    "steps_per_s": "1/s",
    "tokens_per_s": "1/s",
    "examples_per_s": "1/s",
    "peak_bytes": "B",
    "disk_bytes": "B",
    "flops": "1",
    "flops_per_s": "1/s",
}
