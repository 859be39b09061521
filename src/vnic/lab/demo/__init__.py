"""`vnic demo`: a guest on one NIC, and the steps that pull its cable.

`verb` runs the steps of `steps` in the lab of `lab`."""
