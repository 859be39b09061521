"""vnic-wire, the C program that moves packets, and what speaks to it: its ports, its wires, its restarts.

The machine makes a `WireEngine`, and `net.wire` tells that what to carry.
"""
