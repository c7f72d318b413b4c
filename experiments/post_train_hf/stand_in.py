"""What a run reads, stood in for by shapes: architectures without weights, and text without words.

For `--compile_for`: model.directory names one of SHAPES, or a directory that has a config.json and need have no more.
"""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.harness.errors import UserError
from jaxpost import models
from jaxpost.formats.directory import read_object
from jaxpost.lookup import nearest
from jaxpost.models import hf
from jaxpost.tasks.text_data import TextData
from jaxpost.tasks.tokenizer import Tokenizer
from jaxpost.tasks.verifiers import Problem

DIRECTORY = Path(__file__).parent / "shapes"
SHAPES = tuple(sorted(path.name for path in DIRECTORY.iterdir()))


def architecture(key: str, named: str) -> Path:
    """The config.json of a shipped shape or a directory, that a config's key names. Raises: UserError: there is none."""
    path = (DIRECTORY if named in SHAPES else Path()) / named / "config.json"
    if not named or not path.is_file():
        raise UserError(f"{key}={named!r} is neither a directory with a config.json nor a shipped shape"
                        f"{nearest(named, SHAPES)}")
    return path


def inputs(config: ConfigDict) -> tuple[models.TransformerConfig, Tokenizer, TextData]:
    """(architecture, tokenizer, problems to evaluate on) of the config's lengths.

    Raises:
      UserError: no such shape or directory. FormatError: a config.json that is not known.
    """
    path = architecture("model.directory", config.model.directory)
    document = read_object(path)
    model = hf.config_of(document, str(path))
    end = document.get("eos_token_id", 0)
    end = end[0] if isinstance(end, list) else end

    def refuse(text):
        raise ValueError("a stand-in has no text")

    count, problem = config.measure.problems, Problem("", "", "")
    data = TextData((problem,) * count, np.full((count, config.data.prompt_tokens), 1, np.int32),
                    np.full((count, config.data.answer_tokens), 1, np.int32), "", {})
    return model, Tokenizer(refuse, refuse, pad=end, eos=end, size=model.vocab), data
