"""The netdev `tunnel`: a cable to another vnic, or to any VXLAN end point, whose link state travels with the frames."""
