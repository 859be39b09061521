"""vhost-user (QEMU docs/interop/vhost-user.rst), both ends, without a socket.

`backend.BackendEngine` is the back-end that a VM talks to, `frontend.FrontendEngine` the front-end that hands a
guest's rings to another program's back-end; `messages` holds what both ends share.
"""
