"""The server side of vfio-user (the device), without a socket.

`server.Server` takes whole messages and returns replies; `messages` is the wire format. Sources: libvfio-user's
docs/vfio-user.rst, and QEMU's hw/vfio-user for its client's behaviour.
"""
