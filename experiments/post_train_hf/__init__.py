"""SFT and RLVR with probes on a Hugging Face directory and text data: load, train arm by arm and seed by seed, export."""

from experiments.post_train_hf.experiment import SEVERAL_PROCESSES, Setup, run, setup_of

__all__ = ["SEVERAL_PROCESSES", "Setup", "run", "setup_of"]
