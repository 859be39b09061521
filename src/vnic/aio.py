"""The asyncio face of `import vnic`: the same names and methods, awaited."""

from vnic.api.guest import Guest
from vnic.api.instance import Vnic, connect
from vnic.api.lab import Lab
from vnic.api.nic import Flap, Nic
from vnic.api.put_back import Baseline
from vnic.api.vm import Vm

__all__ = ["Baseline", "Flap", "Guest", "Lab", "Nic", "Vm", "Vnic", "connect"]
