"""What stands for a bundle where one probe is measured without a run."""

from jaxpost import records


class Shelf:
    """Keeps arrays and rows; costs must be those of the probe."""

    def __init__(self, probe):
        self.probe, self.arrays, self.rows = probe, {}, {}

    def write_arrays(self, name, arrays):
        self.arrays |= arrays

    def write_rows(self, name, columns):
        self.rows[name] = columns

    def read_rows(self, exclude=()):
        return records.measurement_table({"metric": [], "role": [], "granularity": []})

    def cost(self, phase, **given):
        assert phase == f"probe.{self.probe.id}"
        assert all(value >= 0 for name, value in given.items() if name.endswith("_s"))
