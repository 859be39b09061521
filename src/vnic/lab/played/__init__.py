"""A guest for tests, benchmarks and the demo without a kernel: real memory, real rings, real eventfds, a played driver.

It drives vnic's NICs as a virtio-net driver behind a vhost-user front-end does, honestly or not.
"""
