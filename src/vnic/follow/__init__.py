"""`-object link-follow`: a NIC's link follows a network interface of this host, or another wire of this vnic.

`vnic.filter.registry` makes it; the rules for holds that follow from another wire are in `vnic.net.follow`.
"""
