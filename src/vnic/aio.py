"""The asyncio face of `import vnic`: the same names and methods, awaited."""

from vnic.api.guest import Guest
from vnic.api.instance import Vnic, connect
from vnic.api.lab import Lab
from vnic.api.nic import Flap, Nic

__all__ = ["Flap", "Guest", "Lab", "Nic", "Vnic", "connect"]
