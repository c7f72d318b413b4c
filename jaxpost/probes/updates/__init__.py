"""Probes of the update itself: which entries change, in which directions, how far and for how long."""
