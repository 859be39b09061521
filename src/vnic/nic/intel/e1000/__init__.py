"""The e1000: Intel's 82540EM, 82544GC and 82545EM. `MODELS` names them as `-device` does, `E1000` is the NIC."""

from vnic.nic.intel.e1000.device import E1000
from vnic.nic.intel.e1000.models import MODELS, Model

__all__ = ["E1000", "MODELS", "Model"]
