"""vnic gives virtual machines network cards whose cable you hold.

The names of the Python API are imported when they are first used; `__init__.pyi` has their types.
"""

__version__ = "0.2.0"

_EXPORTS = {
    "vnic.api.blocking": ("Baseline", "Flap", "Guest", "Lab", "Nic", "Vm", "Vnic", "connect"),
    "vnic.api.records": ("Cause", "Completed", "Hold", "LinkChange", "LinkInfo", "Why"),
    "vnic.api.errors": ("CommandFailed", "GuestError", "NotSeen", "Refused", "VnicError"),
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    for module, names in _EXPORTS.items():
        if name in names:
            value: object = getattr(import_module(module), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'vnic' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *(name for names in _EXPORTS.values() for name in names)])
