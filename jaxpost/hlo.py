"""What a compiled program moves between chips and to its host, read from the text of the optimised module.

Counts are per chip and per execution: an instruction inside loops is multiplied by their trip counts, where the
condition compares with a constant, as those of `scan` and `fori_loop` do; a data-dependent loop counts once.
"""

import re
from collections import defaultdict

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_WHILE = re.compile(r" while\(.*?condition=%?([\w.-]+), body=%?([\w.-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation|called_computation)=%?([\w.-]+)"
                     r"|(?:branch_computations|called_computations)=\{([^}]*)\}")
_CONSTANT = re.compile(r"%([\w.-]+) = s32\[\]\S* constant\((\d+)\)")
_LIMIT = re.compile(r"ROOT .* compare\(%?[\w.-]+, %?([\w.-]+)\), direction=LT")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_HOST = re.compile(r" (infeed|outfeed|send|recv)\(|custom_call_target=\"([^\"]*(?:callback|[Hh]ost)[^\"]*)\"")


def _bytes(text: str, started: bool) -> int:
    """Size of the arrays named in a result type; a started collective lists its operand first, the largest counts."""
    sizes = []
    for _, bits, shape in _ARRAY.findall(text):
        count = 1
        for side in filter(None, shape.split(",")):
            count *= int(side)
        sizes.append(count * max(int(bits or 8) // 8, 1))
    return max(sizes, default=0) if started else sum(sizes)


def computations(text: str) -> tuple[str, dict[str, list[str]]]:
    """(name of the entry, {computation: its instruction lines})."""
    entry, name, lines_of = "", "", {}
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name, lines_of[match[2]] = match[2], []
            entry = match[2] if match[1] else entry
        elif line.startswith("  ") and name:
            lines_of[name].append(line)
    return entry, lines_of


def _trips(condition: list[str]) -> int:
    constants = dict(match for line in condition for match in _CONSTANT.findall(line))
    limits = [match[1] for line in condition if (match := _LIMIT.search(line))]
    return int(constants[limits[0]]) if limits and limits[0] in constants else 1


def executions(text: str) -> dict[str, int]:
    """How often each computation runs when the entry runs once."""
    entry, lines_of = computations(text)
    called = {name: defaultdict(int) for name in lines_of}
    for name, lines in lines_of.items():
        for line in lines:
            if loop := _WHILE.search(line):
                for part in loop.groups():  # the condition is looked at once more than the body runs: not counted
                    called[name][part] += _trips(lines_of[loop[1]])
            for one, several in _CALLED.findall(line):
                for callee in [one] if one else re.findall(r"[\w.-]+", several):
                    called[name][callee] += 1
    times = defaultdict(int)

    def visit(name: str, count: int) -> None:
        times[name] += count
        for callee, often in called.get(name, {}).items():
            visit(callee, count * often)

    visit(entry, 1)
    return dict(times)


def collectives(text: str) -> dict[str, dict[str, int]]:
    """{kind: {"instructions", "executions", "bytes", "largest_bytes"}}: results on one chip, no ring factors.

    The pieces of one asynchronous collective share a channel and count once.
    """
    times, (_, lines_of) = executions(text), computations(text)
    seen = {}
    for name, lines in lines_of.items():
        for i, line in enumerate(lines):
            if (match := _COLLECTIVE.search(line)) and name in times:
                channel = _CHANNEL.search(line)
                key = (match[2], channel[1]) if channel else (name, i)
                piece = match[2], times[name], _bytes(match[1], bool(match[3]))
                seen[key] = max(seen.get(key, piece), piece)
    out = {}
    for kind in COLLECTIVES:
        if mine := [(count, size) for other, count, size in seen.values() if other == kind]:
            out[kind] = {"instructions": len(mine), "executions": sum(count for count, _ in mine),
                         "bytes": sum(count * size for count, size in mine),
                         "largest_bytes": max(size for _, size in mine)}
    return out


def voting_loops(text: str) -> int:
    """Loops whose end the chips decide together: their condition has a collective, so every iteration waits for all."""
    lines_of = computations(text)[1]
    conditions = [loop[1] for lines in lines_of.values() for line in lines if (loop := _WHILE.search(line))]
    return sum(any(_COLLECTIVE.search(line) for line in lines_of[name]) for name in conditions)


def host_calls(text: str) -> list[str]:
    """Everything in the program that waits for or calls its host: infeed, outfeed, send, recv, callbacks."""
    return sorted({op or target for op, target in _HOST.findall(text)})
