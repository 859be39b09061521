"""The keeper of `vnic run --keep`: it starts control again when that dies, and holds its descriptors meanwhile.

It speaks the service's half of systemd's protocol (sd_notify(3), sd_listen_fds(3)), so that control need not know
which of the two started it. It imports only what the standard library starts with: it is in front of each start.
"""

OPTIONS = frozenset({"-keep", "--keep"})
"""The spellings of the option of `vnic run`; it is looked for before any other is, and before what they need is
imported."""
