"""Programs compiled ahead on worker threads, while the base is pretrained and other arms train.

A tour compiles one program a row and runs each only briefly, so most of its time would be waiting for the compiler. Tracing
holds Python's lock, compiling does not. Nothing that is computed depends on when a program was compiled.
"""

import collections
import concurrent.futures
import time

import jax
import jax.numpy as jnp

from experiments.harness.arms import Arm
from experiments.harness.errors import UserError
from jaxpost import training
from jaxpost.records import Bundle

_WORKERS = 2
# Compiled and not yet run, at most: each of them holds about a thousand memory maps, of which Linux allows a process 65,530.
_MOST = 6


class Untrainable(UserError):
    """The objective refused its batch while the step was traced; the message names the need."""


class Ahead:
    """The programs of arms, compiled in the order in which they were begun; also a context manager that drops what is left.

    Args:
      params: shapes and dtypes of the base's parameters.
      capacity: steps of a segment, at most.
      level: optimization level of the compiler's CPU back end, 0 (compiles fastest) to 3 (runs fastest).
      bundle: gets `compile` costs: compile_s on the worker, wall_s that the run waited.
    """

    def __init__(self, params: dict, capacity: int, level: int, bundle: Bundle):
        self.params, self.capacity, self.bundle = params, capacity, bundle
        self.options = {"xla_backend_optimization_level": level} if jax.default_backend() == "cpu" else None
        self._pool = concurrent.futures.ThreadPoolExecutor(_WORKERS)
        self._waiting, self._jobs = collections.deque(), {}

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def begin(self, arm: Arm, members: int) -> None:
        """Compile the arm's program for an ensemble of so many members, some time."""
        self._waiting.append((arm, members))
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._jobs) < _MOST:
            arm, members = self._waiting.popleft()
            self._jobs[arm.name, members] = self._pool.submit(self._compile, arm, members)

    def program(self, arm: Arm, members: int):
        """The compiled program, waiting for it if need be; once for each `begin`, compiled now if there was none.

        Raises:
          Untrainable: the objective refused the source's batch.
        """
        began = time.monotonic()
        job = self._jobs.pop((arm.name, members), None)
        self._waiting = collections.deque(waiting for waiting in self._waiting if job or waiting != (arm, members))
        self._fill()
        made, seconds = job.result() if job else self._compile(arm, members)
        self.bundle.cost("compile", arm=arm.name, compile_s=seconds, wall_s=time.monotonic() - began)
        return made

    def _compile(self, arm: Arm, members: int):
        began = time.monotonic()
        program = training.segment_program(arm.source, arm.spec, self.capacity)
        try:
            reference = self.params if arm.source.needs_reference else None
            lowered = program.lower(*self._shapes(arm, members), self.capacity, reference)
        except ValueError as error:  # objectives check their rows while the step is traced
            raise Untrainable(str(error)) from error
        return lowered.compile(self.options), time.monotonic() - began

    def _shapes(self, arm: Arm, members: int) -> tuple:
        """Shapes and dtypes of an ensemble's states and members."""
        def one(params):
            state = training.create(arm.spec, params, arm.source.curriculum.init(jax.random.key(0)))
            return state, training.Member(jnp.uint32(0), jax.tree.map(jnp.asarray, arm.scalars))

        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((members, *x.shape), x.dtype), jax.eval_shape(one, self.params))
