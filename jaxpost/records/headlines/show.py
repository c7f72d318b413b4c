"""The headline of a finished bundle, whatever it is of."""

from pathlib import Path

from jaxpost.plain_text import visible
from jaxpost.records import storage
from jaxpost.records.contents import read_measurements
from jaxpost.records.headlines.pairs import pair_headline
from jaxpost.records.headlines.studies import study_headline
from jaxpost.records.storage import BundleError
from jaxpost.records.tabulating.variants import of_pairs, summarised


def headline(path: str | Path) -> list[str]:
    """Lines for a terminal: title, then `pairs.pair_headline` or `studies.study_headline`, then where the report is.

    Raises:
        BundleError: there is no bundle, it is not finished, or its rows are not what was sealed.
    """
    path = Path(path)
    manifest = storage.read_manifest(path / "manifest.json")
    if manifest["status"] != "complete":
        raise BundleError(f"{path} is not finished (status {manifest['status']!r}): its result is not there yet; run the same "
                          "command again to complete it")
    table = read_measurements(path)
    if of_pairs(table):
        body = pair_headline(summarised(table), manifest.get("coverage"))
        body += [f"note: {flag}" for flag in manifest.get("flags", ())]
    else:
        body = study_headline(table, manifest.get("claim_results", []))
    title = f"{manifest['title'] or 'Measurement bundle'} (bundle {manifest['bundle_id'][:12]})"
    return [visible(title), *map(visible, body), f"{path / 'report.html'}"]
