"""QEMU command lines of real programs, moved over: options are taken, taken with a note, or refused by name.

The options are those that each program gives; the values are made up.
"""

from __future__ import annotations

import shlex

import pytest

from vnic.cli.options import parse_run
from vnic.cli.run_options import OptionError, RunOptions
from vnic.cli.sandbox_option import SandboxChoice
from vnic.cli.set_up import naming
from vnic.machine.nics import NOT_BUILT, device_structs
from vnic.monitor.schema import convert_to_shape, device_options

VRNETLAB = """-enable-kvm -display none -machine pc -monitor tcp:0.0.0.0:4000,server,nowait
    -serial telnet:0.0.0.0:5000,server,nowait -m 4096 -cpu host -smp 2 -drive if=ide,file=overlay.qcow2
    -uuid 11111111-2222-3333-4444-555555555555 -smbios type=1,product=router
    -device pci-bridge,chassis_nr=1,id=pci.1
    -device e1000,netdev=p01,mac=0c:00:11:22:33:01,bus=pci.1,addr=0x2
    -netdev tap,id=p01,ifname=tap1,script=/etc/tc-tap-ifup,downscript=no
    -device e1000,netdev=p02,bus=pci.1,addr=0x3 -netdev socket,id=p02,listen=:10002"""
GNS3 = """-name R1 -m 1024M -smp cpus=1,maxcpus=1,sockets=1 -enable-kvm -machine smm=off -boot order=c
    -drive file=hda.qcow2,if=virtio,index=0,media=disk -uuid 11111111-2222-3333-4444-555555555555
    -serial telnet:127.0.0.1:5001,server,nowait -monitor tcp:127.0.0.1:4001,server,nowait -net none
    -device e1000,mac=0c:11:22:33:00:00,netdev=gns3-0
    -netdev socket,id=gns3-0,udp=127.0.0.1:10001,localaddr=127.0.0.1:10000 -display none"""
PACKER = """-name build -machine type=q35,accel=kvm -boot once=d -qmp unix:build.monitor,server,nowait -m 2048M
    -smp cpus=2,sockets=2 -fda floppy.img -vnc 127.0.0.1:47 -display gtk
    -netdev user,id=user.0,hostfwd=tcp::2222-:22 -device virtio-scsi-pci,id=scsi0
    -device scsi-hd,bus=scsi0.0,drive=drive0 -device virtio-net,netdev=user.0
    -drive if=none,file=build.qcow2,id=drive0,cache=writeback,discard=ignore,format=qcow2"""
LIMA = """-m 4096 -cpu host -machine q35,vmport=off,accel=kvm -smp 4,sockets=1,cores=4,threads=1
    -drive if=pflash,format=raw,readonly=on,file=code.fd -boot order=c,splash-time=0,menu=on
    -drive file=diffdisk,if=virtio,discard=on -drive id=cdrom0,if=none,format=raw,readonly=on,file=cidata.iso
    -device virtio-scsi-pci,id=scsi0 -device scsi-cd,bus=scsi0.0,drive=cdrom0
    -netdev user,id=net0,net=192.168.5.0/24,dhcpstart=192.168.5.15,hostfwd=tcp:127.0.0.1:60022-:22
    -device virtio-net-pci,netdev=net0,mac=52:55:55:11:22:33 -device virtio-rng-pci -display none
    -device virtio-vga -device virtio-keyboard-pci -device virtio-mouse-pci -device qemu-xhci,id=usb-bus
    -parallel none -chardev socket,id=char-serial,path=serial.sock,server=on,wait=off,logfile=serial.log
    -serial chardev:char-serial -chardev socket,id=char-qmp,path=qmp.sock,server=on,wait=off -qmp chardev:char-qmp
    -name lima-default -pidfile qemu.pid"""
LIBVIRT = """-name guest=vm,debug-threads=on -S -object '{"qom-type":"secret","id":"masterKey0","format":"raw"}'
    -machine pc-q35-9.2,usb=off,dump-guest-core=off,memory-backend=pc.ram -accel kvm -cpu host,migratable=on -m size=4G
    -object '{"qom-type":"memory-backend-memfd","id":"pc.ram","share":true,"size":4294967296}' -overcommit mem-lock=off
    -smp 2,sockets=2,cores=1,threads=1 -uuid 11111111-2222-3333-4444-555555555555 -no-user-config -nodefaults
    -chardev socket,id=charmonitor,fd=30,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control
    -rtc base=utc,driftfix=slew -global kvm-pit.lost_tick_policy=delay -no-shutdown -boot strict=on
    -device '{"driver":"pcie-root-port","port":16,"chassis":1,"id":"pci.1","bus":"pcie.0","addr":"0x2"}'
    -blockdev '{"driver":"file","filename":"vm.qcow2","node-name":"libvirt-1-storage"}'
    -device '{"driver":"virtio-blk-pci","bus":"pci.4","addr":"0x0","drive":"libvirt-1-format","bootindex":1}'
    -netdev '{"type":"tap","fd":"36","vhost":true,"vhostfd":"38","id":"hostnet0"}'
    -device '{"driver":"virtio-net-pci","netdev":"hostnet0","id":"net0","mac":"52:54:00:11:22:33","bus":"pci.1"}'
    -chardev pty,id=charserial0 -device '{"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":0}'
    -audiodev '{"id":"audio1","driver":"none"}' -vnc 127.0.0.1:0,audiodev=audio1
    -device '{"driver":"virtio-balloon-pci","id":"balloon0","bus":"pci.5","addr":"0x0"}' -msg timestamp=on"""
LXD = """-S -name v1 -uuid 11111111-2222-3333-4444-555555555555 -daemonize -cpu host -nographic -nodefaults
    -no-reboot -no-user-config -pidfile qemu.pid -D qemu.log -smbios type=2,manufacturer=LinuxContainers"""


def parse(line: str) -> RunOptions:
    return parse_run(shlex.split(line))


@pytest.mark.parametrize(
    ("line", "netdevs", "noted"),
    [
        (VRNETLAB, ["tap", "socket"], ["-enable-kvm", "-serial", "-smbios", "-device pci-bridge"]),
        (GNS3, ["socket"], ["-smp", "-boot", "-uuid"]),
        (PACKER, ["user"], ["-fda", "-vnc", "-device virtio-scsi-pci", "-device scsi-hd"]),
        (LIMA, ["user"], ["-parallel", "-device qemu-xhci", "-device virtio-vga"]),
        (LIBVIRT, ["tap"], ["-object secret", "-blockdev", "-global kvm-pit", "-chardev pty", "-msg"]),
        (LXD, [], ["-cpu", "-nographic", "-no-reboot"]),
    ],
    ids=["vrnetlab", "gns3", "packer", "lima", "libvirt", "lxd"],
)
def test_whole_command_line_is_taken_with_one_note(line: str, netdevs: list[str], noted: list[str]) -> None:
    options = parse(line)
    assert [setting.tree["type"] for setting in options.netdevs] == netdevs
    (note,) = [each for each in options.notes() if each.startswith("note: ")]
    words = note.partition(": ")[2].partition(": ")[2].split(", ")
    assert set(noted) <= set(words)
    for setting in options.devices:  # the NICs, and nothing but them; their properties are all known
        with naming(setting.where):
            shape = device_options(device_structs(), NOT_BUILT)
            convert_to_shape(shape, setting.tree, strings=not setting.typed)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (LIBVIRT + " -sandbox on,obsolete=allow", "Parameter 'obsolete' expects 'deny'"),
        (LIBVIRT + " -incoming defer", "-incoming: vnic cannot be migrated"),
        (LIBVIRT + " -add-fd set=0,fd=36,opaque=tpm", "-add-fd: vnic has no -add-fd"),
        (LXD + " -sandbox on,spawn=never", "Parameter 'spawn' expects allow or deny, not 'never'"),
        (LXD + " -readconfig qemu.conf", "-readconfig: vnic reads no configuration files"),
        (GNS3 + " -loadvm GNS3_SAVED_STATE", "-loadvm: vnic has no snapshots"),
        ("-nic user,hostfwd=tcp::2222-:22", "vnic has no -nic but -nic none: give a -netdev and a -device"),
        ("-net nic -net user", "vnic has no -net but -net none: give a -netdev and a -device"),
    ],
)
def test_unsupported_option_is_refused_by_name(line: str, why: str) -> None:
    with pytest.raises(OptionError) as refused:
        parse(line)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("words", "choice"),
    [
        (
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            SandboxChoice(on=True, spawn=False, children_may_gain=False),
        ),
        (
            "on,obsolete=deny,elevateprivileges=allow,spawn=allow,resourcecontrol=deny",
            SandboxChoice(on=True),
        ),
        ("off", SandboxChoice()),
        ("enable=on,elevateprivileges=children", SandboxChoice(on=True)),
        ("on,landlock=required,folder=/a", SandboxChoice(on=True, needs_landlock=True, folders=("/a",))),
        ("on,folder.0=/a,folder.1=/b", SandboxChoice(on=True, folders=("/a", "/b"))),
    ],
    ids=["libvirt", "lxd", "off", "children", "landlock", "folders"],
)
def test_sandbox_of_managers_is_taken(words: str, choice: SandboxChoice) -> None:
    assert parse_run(["-sandbox", words]).sandbox == choice
