"""Sockets for all parts of vnic. NICs, netdevs, chardevs and monitors call them; `bind` has the rule for paths."""
