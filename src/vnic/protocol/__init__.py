"""Sans-IO protocol engines: bytes and file descriptors in, messages and replies out.

No module here opens a socket or uses an event loop; the shells in `vnic.attach`, `vnic.backend` and `vnic.monitor`
read and write, and tests drive the engines with bytes alone.
"""
