"""Attacks on a running vnic that are too long for a test: `make attack` runs them all in 10 minutes, with figures.

Each script plays guests or clients that mean harm, beside an honest one. It has `main() -> int`, which prints what it
measured, a line each, and returns 0 where vnic held. `python -m tests.attack.NAME` runs one.
"""
