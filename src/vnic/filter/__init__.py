"""filter: what `-object filter-…` puts on a netdev: dump, buffer, mirror and redirector.

`vnic.net.filters` says when they run; a new one is a file here, its options in `options`, and a row in `registry`.
Modules are imported when the first filter of theirs is made, so that `vnic run` starts fast.
"""

from vnic.filter.options import NetFilterOptions
from vnic.filter.registry import (
    OBJECTS,
    object_add,
    object_del,
    object_structs,
)

__all__ = ["OBJECTS", "NetFilterOptions", "object_add", "object_del", "object_structs"]
