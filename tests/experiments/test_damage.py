"""A run whose files are damaged while it is interrupted ends with the rows of the undisturbed one and says what it did."""

import shutil

import pytest

from experiments import study
from jaxpost import records
from tests.flips import flip

from .test_run import Killed, rows


@pytest.mark.filterwarnings("ignore:.*is not what was written")
@pytest.mark.slow
def test_damaged_measurements_checkpoints_and_series_are_made_again(finished, tiny, tmp_path, monkeypatch):
    path = tmp_path / "run"

    def killed(*given):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(study, "_compare", killed)
        with pytest.raises(Killed):
            tiny(path)
    first = next((path / "rows").glob("rlvr-lr1-00001-*.parquet"))
    base = next((path / "rows").glob("base-*.parquet"))
    arm = path / "base-0" / "arms" / "sft-lr1"
    for file in (first, base):
        flip(file, 8 * 50)
    last = max((p for p in next(arm.iterdir()).iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    for file in (last / "params").rglob("d/*"):
        flip(file, 8 * (file.stat().st_size // 2))
    code, told, err = tiny(path)
    assert code == 2 and "no checkpoint in" in err and "remove the directories of these steps" in err
    shutil.rmtree(last)
    code, out, err = tiny(path)
    assert code == 0, err
    assert rows(path).equals(rows(finished))
    phases = [event["phase"] for event in records.read_events(path / "events.jsonl")]
    assert phases.count("damaged") == 2 and "measured-again" in phases and "is gone or damaged and is made again" in told
