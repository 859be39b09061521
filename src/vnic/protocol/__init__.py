"""Sans-IO protocol engines: bytes and file descriptors in, messages and replies out.

Nothing here opens a socket or knows an event loop; the shells in `vnic.attach`, `vnic.backend` and
`vnic.monitor` read and write, and tests drive the engines with bytes alone.
"""
