"""Impairments of a wire, as tc-netem(8) has them: delay, loss, duplication, corruption, reordering, rate.

`filter.netem` is the object of the command line; what is here decides about each frame and delays it, without I/O.
"""
