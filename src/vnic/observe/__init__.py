"""Logging and lag measurement: what an operator sees besides the monitor."""
