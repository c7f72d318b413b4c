"""SFT and RLVR with probes on a Hugging Face directory and text data: load, train arm by arm and seed by seed, export."""

from experiments.post_train_hf.experiment import Setup, run

__all__ = ["Setup", "run"]
