"""The filters of `-object filter-…` (dump, buffer, mirror, redirector and replay), and the registry of all objects.

`vnic.net.filters` runs them. A new filter is a file here, its options in `options`, and a row in `registry`. A module
is imported when its first filter is made, so that `vnic run` starts fast.
"""

from vnic.filter.registry import (
    OBJECTS,
    object_add,
    object_del,
    object_structs,
)

__all__ = ["OBJECTS", "object_add", "object_del", "object_structs"]
