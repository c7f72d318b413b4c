"""The list of planted faults is about the code and the tests as they are."""

from pathlib import Path

from tests.mutations import FAULTS, ROOT


def test_every_fault_can_be_planted_once():
    texts = {fault.file: (ROOT / fault.file).read_text(encoding="utf-8") for fault in FAULTS}
    found = [(fault.file, fault.old) for fault in FAULTS if texts[fault.file].count(fault.old) != 1 or fault.old == fault.new]
    assert not found
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS}) == len(FAULTS) >= 60


def test_every_named_test_exists():
    for file, _, name in {test.partition("::") for fault in FAULTS for test in fault.tests.split()}:
        path: Path = ROOT / file
        assert path.name.startswith("test_") and path.exists(), file
        assert not name or f"def {name}(" in path.read_text(encoding="utf-8"), f"{file}::{name}"
