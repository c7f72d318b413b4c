"""What a bundle says first: five lines of a comparison of checkpoints, the claims and arms of a study."""
