"""vnic gives virtual machines network cards whose cable you hold."""

__version__ = "0.2.0"
