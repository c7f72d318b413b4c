"""Faults on purpose: a small study is killed, damaged and starved, resumed, and compared with the undisturbed run."""
