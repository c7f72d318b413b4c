"""Measurement rows, bundles and provenance; the tables, figures and report that come out of them.

An experiment opens a bundle, writes one shard a measurement, and finishes:

    bundle = records.Bundle.open(directory, config, records.config_hash(config), claims)
    if not bundle.has_rows("rlvr-lr1-100"):
        bundle.write_rows("rlvr-lr1-100", columns)
    records.finish(bundle, metrics=METRICS, claims=results)
"""

from jaxpost.records import papers
from jaxpost.records.bundle import Bundle
from jaxpost.records.closing import finish
from jaxpost.records.contents import read_measurements, read_metrics
from jaxpost.records.extend import reopen
from jaxpost.records.headlines.show import headline
from jaxpost.records.provenance import code_state, config_hash, environment
from jaxpost.records.report import rerender
from jaxpost.records.rows import format_params, measurement_table, parse_params, row_ids, select
from jaxpost.records.storage import BundleError, read_events
from jaxpost.records.summary import summarise

__all__ = [
    "Bundle",
    "BundleError",
    "code_state",
    "config_hash",
    "environment",
    "finish",
    "format_params",
    "headline",
    "measurement_table",
    "papers",
    "parse_params",
    "read_events",
    "read_measurements",
    "read_metrics",
    "reopen",
    "rerender",
    "row_ids",
    "select",
    "summarise",
]
