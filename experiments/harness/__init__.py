"""What experiments share: config, arms, bases, training, probes, claims and session."""
