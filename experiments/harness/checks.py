"""What a config's values must satisfy, checked before any compute: each violation is one line that names the fix."""

import math
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from experiments.harness.config import leaves, nearest
from experiments.harness.errors import UserError
from experiments.harness.session import WANDB_MODES
from jaxpost import models, processes, sharding, tasks
from jaxpost.tasks import Task

# key -> (smallest, largest) value; of each element where the value is a tuple. Open ends are None.
RANGES = {
    "seeds.first": (0, None), "seeds.count": (1, None), "seeds.bases": (1, None), "seeds.base": (0, None),
    "pretrain.rows": (2, None), "pretrain.second_steps": (0, None), "pretrain.max_steps": (1, None),
    "pretrain.check_every": (1, None), "pretrain.problems": (1, None), "pretrain.success_low": (0.0, 1.0),
    "pretrain.success_high": (0.0, 1.0), "pretrain.second_min": (0.0, 1.0),
    "train.steps": (1, None), "train.prompts": (1, None), "train.group": (2, None), "train.microbatches": (1, None),
    "train.steps_per_call": (1, None), "measure.grid_points": (2, None), "measure.problems": (1, None),
    "measure.budget": (0.0, None), "measure.completions": (0, None), "measure.even_points": (0, None),
    "measure.text_tokens": (2, None),  # the first of a text is given
    "mesh.ensemble": (1, None), "mesh.data": (-1, None), "mesh.fsdp": (-1, None), "mesh.tensor": (-1, None),  # -1: what is left
    "checkpoint.every_seconds": (0.0, None), "train.minibatches": (1, None), "train.optimization_level": (0, 3),
    "margins.improved": (0.0, 1.0), "margins.held": (0.0, 1.0), "measure.reevaluations": (2, None),
    **{f"model.{name}": (1, None) for name in ("vocab", "width", "heads", "kv_heads", "head_dim", "ff")},
    "model.layers": (1, 1024),  # the deepest published models have 1,000, and each costs tracing
}
POSITIVE = ("pretrain.learning_rate", "train.learning_rate", "train.learning_rates", "train.sgd_learning_rate",
            "train.adapter_learning_rate",
            *(f"train.learning_rates.{family}" for family in ("sft", "preference", "rl", "hybrid")))
FILLED = ("train.learning_rates", "measure.ks", "measure.alphas", "measure.probes", "arms",
          "rows")  # tuples that may not be empty or repeat
LARGEST_SEED = 2**31 - 1
_NOT_TOGETHER = ("ensemble", "fsdp", "tensor")  # mesh axes


def values(config: ConfigDict) -> None:
    """Refuse numbers out of their range, empty or repeating lists, and modes that do not exist.

    Raises:
      UserError: the first violation.
    """
    by_key = leaves(config)
    for key, value in by_key.items():
        for x in value if isinstance(value, tuple) else (value,):
            low, high = RANGES.get(key, (None, None))
            if (low is not None and x < low) or (high is not None and x > high):
                raise UserError(f"{key}={value!r}: must be " + (f"between {low} and {high}" if high is not None
                                                               else f"at least {low}"))
            if key in POSITIVE and not x > 0:
                raise UserError(f"{key}={value!r}: a learning rate must be greater than 0")
        if key in FILLED and (not value or len(set(value)) < len(value)):
            raise UserError(f"{key}={value!r}: needs at least one entry and none twice")
    p = config.get("pretrain")
    if p is not None and p.success_low > p.success_high:
        raise UserError(f"pretrain.success_low={p.success_low} is greater than "
                        f"pretrain.success_high={p.success_high}; swap them")
    for name, count in (("first", config.seeds.count), ("base", config.seeds.get("bases", 1))):
        if config.seeds.get(name, 0) + count - 1 > LARGEST_SEED:
            raise UserError(f"seeds.{name}={config.seeds[name]}: the last seed must be at most {LARGEST_SEED}")
    if config.wandb.mode not in WANDB_MODES:
        raise UserError(f"wandb.mode={config.wandb.mode!r} is not known{nearest(config.wandb.mode, WANDB_MODES)}")


def competence(section: ConfigDict, task: Task) -> None:
    """A base that guesses is not partly competent: the range begins four binomial standard errors above a guess.

    Four, because the first check inside the range ends pretraining, and hundreds of checks are made. A range from 0 takes any.

    Raises:
      UserError: it begins below.
    """
    guess = float(task.guess("id"))
    least = guess + 4 * math.sqrt(guess * (1 - guess) / section.problems)
    if 0 < section.success_low < least:
        raise UserError(f"pretrain.success_low={section.success_low}: a guess at {task.name} has {guess:.3g}, and a check of "
                        f"{section.problems} problems shows {least:.3g} by chance; expected at least "
                        f"{math.ceil(100 * least) / 100}, or 0, which takes any base")


def model(section: ConfigDict, used: Sequence[Task]) -> models.TransformerConfig:
    """The transformer of a config section; `vocab` is that of the tasks, or may be given and must cover every one.

    Raises:
      UserError: an unknown field, sizes that do not fit, or a vocabulary that is too small.
    """
    fields = {"vocab": max((tasks.vocab.SIZE, *(task.vocab_size for task in used))), **section.to_dict()}
    known = list(models.TransformerConfig.__dataclass_fields__)
    for name in fields:
        if name not in known:
            raise UserError(f"config key 'model.{name}' is not known{nearest(name, known)}")
    try:
        made = models.TransformerConfig(**fields)
    except ValueError as error:
        raise UserError(str(error)) from error
    for task in used:
        try:
            tasks.require_vocab(task, made.vocab)
        except ValueError as error:
            raise UserError(f"model.vocab={made.vocab}: {error}") from error
    return made


def mesh(section: ConfigDict, rows: int, devices: Sequence | None = None,
         what: str = "a training step (train.prompts * train.group)"):
    """The mesh of a config section on the first devices, or None where every axis is 1.

    Args:
      section: axis -> size.
      rows: of one training step, which is called `what`; the axes data and fsdp must divide them.
      devices: abstract ones, of a slice that is not there, all of which the mesh takes; None: those of this machine.

    Raises:
      UserError: an unknown axis, more devices than there are, or rows that do not divide.
    """
    sizes = section.to_dict()
    if unknown := [axis for axis in sizes if axis not in sharding.MESH_AXES]:
        raise UserError(f"config key 'mesh.{unknown[0]}' is not known{nearest(unknown[0], sharding.MESH_AXES)}")
    given, devices = devices is not None, jax.devices() if devices is None else devices
    sizes = _filled(sizes, len(devices))
    wanted = math.prod(sizes.values())
    if processes.several() and wanted < len(devices):
        raise UserError(f"{jax.process_count()} processes have {len(devices)} devices, and the mesh uses {wanted}: it must use "
                        f"all, as --config.mesh=data:{len(devices)} or ensemble:{len(devices)} does")
    if given and wanted != len(devices):
        raise UserError(f"the mesh takes {wanted} of the {len(devices)} chips; let one axis take what is left of them, for "
                        "example --config.mesh=fsdp:-1")
    if wanted == 1 and not given:
        return None
    if wanted > len(devices):
        text = ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items() if size > 1)
        raise UserError(f"{text} needs {wanted} devices, found {len(devices)}; set it to at most {len(devices)}, or on a CPU "
                        f"run with XLA_FLAGS=--xla_force_host_platform_device_count={wanted}")
    if all(sizes.get(axis, 1) > 1 for axis in _NOT_TOGETHER):
        together = ", ".join(f"{axis}:{sizes[axis]}" for axis in _NOT_TOGETHER)
        raise UserError(f"mesh: {together} cannot go together: the compiler (XLA as of jax 0.10) aborts on members whose "
                        "parameters are split over two axes; leave one of them at 1")
    made = sharding.make_mesh(sizes, devices[:wanted])
    try:
        sharding.check_divisible(rows, made, what)
    except ValueError as error:
        raise UserError(str(error)) from error
    processes.connect(made)
    return made


def one_device(config: ConfigDict) -> None:
    """Refuse a mesh for an experiment that has no use for one. Raises: UserError."""
    if config.mesh.ensemble != 1:
        raise UserError(f"mesh.ensemble={config.mesh.ensemble}: this experiment runs on one device; set it to 1")


def _filled(sizes: dict[str, int], devices: int) -> dict[str, int]:
    """The sizes, -1 replaced by what is left of the devices. Raises: UserError: a size below 1, or nothing whole is left."""
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    stated = math.prod(size for size in sizes.values() if size != -1)
    if bad := [axis for axis, size in sizes.items() if size < 1 and size != -1]:
        raise UserError(f"mesh.{bad[0]}={sizes[bad[0]]}: a number of devices, or -1 for what is left")
    if len(open_axes) > 1:
        raise UserError(f"mesh: {' and '.join(open_axes)} are both -1; one axis at most takes what is left")
    if open_axes and devices % stated:
        near = min((n for n in range(1, devices + 1) if devices % n == 0), key=lambda n: abs(n - stated))
        raise UserError(f"mesh.{open_axes[0]}=-1: the other axes take {stated}, which does not divide the {devices} devices; "
                        f"nearest product: {near}")
    return sizes | {axis: devices // stated for axis in open_axes}
