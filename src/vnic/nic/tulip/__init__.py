"""DEC's 21143, as QEMU's `tulip`. `Tulip` is the NIC."""

from vnic.nic.tulip.device import Tulip

__all__ = ["Tulip"]
