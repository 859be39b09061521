"""The options of a QEMU command line that describe the VM, not its network: `vnic run` takes them without effect.

A command line that is moved over whole has many of them. `options` calls this module, and one note names them all.
"""

from __future__ import annotations

import re

FLAGS = frozenset(
    {
        *("enable-kvm", "full-screen", "no-acpi", "no-fd-bootchk", "no-hpet", "no-reboot", "no-shutdown"),
        *("no-user-config", "nodefaults", "nodefconfig", "nographic", "only-migratable", "snapshot"),
        *("mem-prealloc", "usb", "win2k-hack"),
    }
)
"""Without an argument."""

WITH_ARGUMENT = frozenset(
    {
        *("M", "machine", "accel", "cpu", "m", "smp", "numa", "uuid", "smbios", "acpitable", "rtc", "icount"),
        *("bios", "pflash", "kernel", "initrd", "append", "dtb", "shim", "boot", "option-rom", "fw_cfg", "L"),
        *("drive", "blockdev", "cdrom", "hda", "hdb", "hdc", "hdd", "fda", "fdb", "sd", "mtdblock", "iscsi"),
        *("fsdev", "virtfs", "usbdevice", "audio", "audiodev", "soundhw"),
        *("display", "vga", "vnc", "spice", "k", "g", "prom-env"),
        *("serial", "parallel", "debugcon", "virtioconsole", "tpmdev"),
        *("overcommit", "mem-path", "action", "watchdog", "watchdog-action", "msg", "compat"),
        *("echr", "semihosting-config", "set"),
    }
)
"""With an argument."""

NOT_BUILT = {
    "readconfig": "vnic reads no configuration files",
    "incoming": "vnic cannot be migrated",
    "loadvm": "vnic has no snapshots",
    "runas": "vnic has no -runas: use -run-with user=",
    "chroot": "vnic has no -chroot: -sandbox on leaves it the folders that the command line names",
    "add-fd": "vnic has no -add-fd: a descriptor that it inherits is named by its number, as fd=3",
    "d": "vnic has no -d: VNIC_LOG=debug has it log more",
    "dfilter": "vnic has no -dfilter: VNIC_LOG=debug has it log more",
    "trace": "vnic has no trace points: VNIC_LOG=debug has it log more",
    "plugin": "vnic has no plugins",
    "gdb": "vnic has no CPU to debug",
    "s": "vnic has no CPU to debug",
    "preconfig": "vnic has nothing to configure before -S",
    "qtest": "vnic has no -qtest",
}
"""Options that QEMU users may try, and what to say."""

_DEVICES = re.compile(
    r"""(?: virtio-(?: balloon | blk | console | crypto | gpu | input | iommu | keyboard | mem | mouse | multitouch
            | pmem | rng | scsi | serial | sound | tablet | vga ) (?: -.* )?
      | virtserialport | virtconsole | vhost-(?:user-)?(?: blk | fs | gpio | i2c | rng | scsi | vsock ) (?: -.* )?
      | pcie?-(?: bridge | root-port | pci-bridge | testdev ) | pxb (?: -.* )? | ioh3420 | x3130-upstream
      | xio3130-downstream | i82801b11-bridge | (?: intel | amd | virtio ) -iommu
      | (?: ide | scsi | usb | isa | ich9 | piix3 | piix4 | sysbus ) -.+ | floppy
      | nvme (?:-ns)? | ahci | sdhci-pci | sd-card
      | lsi53c .* | megasas .* | am53c974 | pvscsi | (?: nec-usb-xhci | qemu-xhci | pci-ohci )
      | VGA | cirrus-vga | qxl .* | bochs-display | ramfb | vmware-svga | secondary-vga | ati-vga
      | AC97 | ES1370 | hda-.+ | intel-hda | tpm-.+ | pvpanic .* | vmcoreinfo | vmgenid | vmclock | edu
      | i6300esb | ib700 | pc-dimm | nvdimm | ivshmem-.+ | loader | guest-loader | vfio-pci .* | smbus-.+
      | .+ -(?: x86_64 | i386 | arm ) -cpu ) """,
    re.VERBOSE,
)
"""QEMU's devices that are no network card, by family. A name that is in none of them may be a misspelt NIC."""

_OBJECTS = re.compile(
    r"(?:memory-backend-.+|iothread|thread-context|throttle-group|secret|secret_keyring|tls-.+|authz-.+|rng-.+"
    r"|cryptodev-.+|can-.+|input-.+|sev-.+|tdx-guest|pr-manager-helper|iommufd|main-loop|acpi-generic-.+|qtest)"
)

CHARDEVS = frozenset(
    {
        *("braille", "dbus", "file", "hub", "memory", "msmouse", "mux", "parallel", "parport", "pipe", "pty"),
        *(
            "qemu-vdagent",
            "ringbuf",
            "serial",
            "spiceport",
            "spicevmc",
            "testdev",
            "tty",
            "udp",
            "vc",
            "wctablet",
        ),
    }
)
"""Back-ends of -chardev that the VM's serial ports and agents use, and vnic does not."""


def is_vm_device(driver: str) -> bool:
    """Whether `-device DRIVER` is a part of the VM that has nothing to do with its network."""
    return driver != "usb-net" and _DEVICES.fullmatch(driver) is not None


def is_vm_object(qom_type: str) -> bool:
    """The same of `-object TYPE`: the VM's memory, its threads, its secrets."""
    return _OBJECTS.fullmatch(qom_type) is not None


def note(taken: list[str]) -> str:
    """The one line that names what was `taken` without effect."""
    names = ", ".join(dict.fromkeys(taken))
    return f"note: without effect here, for they describe the VM, which is another process: {names}"
