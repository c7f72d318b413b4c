"""Packaging: the library only; `experiments`, `configs` and `notebooks` run from a clone."""

from setuptools import find_packages, setup

TEST = ["pytest>=8", "pytest-xdist>=3.7", "nbformat>=5.10", "nbclient>=0.10", "ipykernel>=6.29", "ruff>=0.12",
        "hypothesis>=6"]
TEXT = ["tokenizers>=0.21", "math-verify[antlr4_13_2]>=0.8"]
FAST = ["numba>=0.62", "xxhash>=3.5"]

setup(
    name="jaxpost",
    version="0.1.0",
    description="Post-training of sequence policies in JAX, with every measurement of how parameters move made citable",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["jaxpost", "jaxpost.*"]),
    package_data={"jaxpost": ["**/*.j2", "**/*.mplstyle", "**/*.txt"]},
    install_requires=[
        "jax>=0.10,<0.12",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "chex>=0.1.92",
        "ml_collections>=1.1",
        "tensorflow-datasets>=4.9.10",
        "grain>=0.2.18",
        "wandb>=0.31",
        "safetensors>=0.8",
        "numpy>=2.4",
        "scipy>=1.17",
        "pyarrow>=21",
        "matplotlib>=3.10",
        "rich>=14",
        "Jinja2>=3.1",
        "zstandard>=0.23",  # JAX packs the programs that it keeps with it; without it with zlib, more slowly
    ],
    extras_require={
        "test": [*TEST, *TEXT, *FAST, "tensorboardX>=2.6", "pandas>=2.2"],
        "fast": FAST,
        "tensorboard": ["tensorboardX>=2.6"],
        "pandas": ["pandas>=2.2"],
        "hf": TEXT,
        "real": [*TEXT, "torch==2.13.0", "transformers>=5", "gguf>=0.17"],  # a pretrained model from a GGUF file
        "parity": ["torch==2.13.0", "transformers>=5", "trl"],
        "tpu": ["jax[tpu]>=0.10,<0.12"],
        "ray": ["ray>=2.40"],
        "docs": ["mkdocs>=1.6.1,<2", "mkdocs-material>=9.7", "mkdocstrings[python]>=1.0", "nbformat>=5.10"],
        "notebooks": ["nbformat>=5.10", "nbclient>=0.10", "ipykernel>=6.29"],
    },
)
