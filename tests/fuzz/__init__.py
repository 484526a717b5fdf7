"""Fuzzing: what no honest caller sends, in great numbers, at everything that reads bytes.

A target draws cases by hypothesis and says of each whether it was taken or how it was refused;
anything else is a failure. `python -m fuzz` (from `tests/`, or `make fuzz`) runs many cases,
`test_fuzz.py` a few.
"""
