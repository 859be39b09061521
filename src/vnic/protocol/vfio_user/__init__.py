"""vfio-user, the server's side (we are the device), without a socket.

`server.Server` takes whole messages and returns replies; `messages` holds the wire format. Sources: libvfio-user
docs/vfio-user.rst, and QEMU hw/vfio-user for what its client really does.
"""
