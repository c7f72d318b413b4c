"""Which arms a study compares at equal footing: all that were trained, and those of each claim that asks for it."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from experiments.harness import claims as claim_rules
from experiments.harness import matched


@dataclasses.dataclass(frozen=True)
class Compared:
    """A set of arms and its rows at matched norm and matched success."""

    among: str  # its name in the rows
    arms: tuple[str, ...]
    columns: list[dict]
    norm: float | None  # ||dW||_F at which they were compared (NaN: none moved); None: compared at equal success alone


def of_sets(runs: matched.Trajectories, claims: Sequence[Mapping], trained: Sequence[str], base: str,
            read: Sequence[matched.Read], before: Mapping[str, str] = MappingProxyType({})) -> Iterator[Compared]:
    """The comparisons of every set; at equal KL those of the claims that ask for it.

    Args:
      trained: the arms that were trained; base: digest of what they start from.
      read, before: of `matched.at_matched_success`; what a set is matched on is not read.
    """
    sets = {("all", "id"): tuple(trained)} | {
        (claim_rules.among(c), claim_rules.target(c)): tuple(c["arms"]) for c in claims if c["at"] != "final"}
    at_equal_kl = {claim_rules.among(c) for c in claims if c["at"] == "matched_kl"}
    for (among, on), arms in sets.items():
        others = [(metric, split) for metric, split in read if (metric, split) != (matched.SUCCESS, on)]
        at_success = matched.at_matched_success(runs, arms, base, among, on=on, read=others, before=before)[0]
        at_norm, target = matched.at_matched_distance(runs, arms, base, among) if on == "id" else ({}, None)
        at_kl = matched.at_matched_distance(runs, arms, base, among, place="matched_kl", distance=matched.kl)[0] if (
            on == "id" and among in at_equal_kl) else {}
        yield Compared(among, arms, [part for part in (at_norm, at_success, at_kl) if part], target)
