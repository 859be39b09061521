"""The Python API of `import vnic`: a running vnic, its NICs, labs and their guests.

`instance`, `nic`, `guest` and `lab` are asyncio's; `blocking` is the plain face of the same, which `vnic` exports.
"""
