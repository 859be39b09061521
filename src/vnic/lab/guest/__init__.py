"""The guest kit: real Linux kernels as guests of vnic, for `vnic demo`, the tests, and anyone who wants to look.

`kit.obtain_uml()` finds or downloads a kernel, `uml.UmlGuest` boots it on NIC sockets and runs shell commands in it.
"""
