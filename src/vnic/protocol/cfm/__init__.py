"""Continuity checks (IEEE 802.1Q, clauses 18 to 21), without sockets: `ccm` has the messages, `mep` judges them.

The netdev `tunnel` uses both; vnic-wire does the same in C, and is tested against this.
"""
