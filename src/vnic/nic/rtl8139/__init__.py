"""The rtl8139: Realtek's RTL8139C+ in both of its modes. `RTL8139` is the NIC."""

from vnic.nic.rtl8139.device import RTL8139

__all__ = ["RTL8139"]
