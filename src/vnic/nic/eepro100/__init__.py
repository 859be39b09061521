"""Intel's 8255x family of 10/100 cards (8255x 10/100 Mbps Ethernet Controller Family, Open Source Software Developer
Manual: "SDM"), under QEMU's names (hw/net/eepro100.c)."""

from vnic.nic.eepro100.device import Eepro100
from vnic.nic.eepro100.models import MODELS

__all__ = ["MODELS", "Eepro100"]
