"""Problems generated and verified a second, compilation apart: `python -m tests.tasks.speed`."""

import time

import jax
import numpy as np

from jaxpost import tasks

COUNT = 1024
ROUNDS = 4


def one(name: str, **options) -> tuple[float, float]:
    """(problems a second, seconds of the first call, most of which is compilation)."""
    task = tasks.get(name, **options)
    verify = jax.jit(jax.vmap(task.verify))

    def turn(start):
        batch = tasks.examples(task, "train", np.arange(start, start + COUNT))
        return verify(batch.problem, batch.answer_NxT).block_until_ready()

    began = time.perf_counter()
    turn(0)
    first = time.perf_counter() - began
    began = time.perf_counter()
    for i in range(1, ROUNDS + 1):
        turn(i * COUNT)
    return ROUNDS * COUNT / (time.perf_counter() - began), first


def table():
    """A line a family at its defaults, and with reasoning where there is any."""
    for name in tasks.FAMILIES:
        for style in ("answer", "backtrack(2)"):
            options = {} if style == "answer" else {"style": style}
            if style == "answer" or "backtrack" in tasks.get(name).styles:
                rate, first = one(name, **options)
                yield f"{name:16} {style:14} {rate:10,.0f} problems/s, first call {first:5.1f} s"


if __name__ == "__main__":
    for line in table():
        print(line)
