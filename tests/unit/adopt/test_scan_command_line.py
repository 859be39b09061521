"""What the scan reads in the command line of a QEMU."""

from __future__ import annotations

import shlex

import pytest

from vnic.adopt.scan.command_line import Chardev, is_qemu, read

LIBVIRT = [
    *("/usr/bin/qemu-system-x86_64", "-name", "guest=web,debug-threads=on", "-S"),
    *("-uuid", "76CC0CE4-f370-4996-9369-e2690d0ff767"),
    *("-chardev", "socket,id=charmonitor,fd=25,server=on,wait=off", "-mon"),
    *("chardev=charmonitor,id=monitor,mode=control", "-chardev"),
    *("socket,id=charchannel0,fd=22,server=on,wait=off", "-device"),
    '{"driver":"virtserialport","bus":"virtio-serial0.0","nr":1,"chardev":"charchannel0","id":"channel0",'
    '"name":"org.qemu.guest_agent.0"}',
]


@pytest.mark.parametrize(
    ("words", "yes"),
    [
        (["qemu-system-x86_64", "-S"], True),
        (["/usr/libexec/qemu-kvm"], True),
        (["/lib64/ld-linux-x86-64.so.2", "--library-path", "/x", "/x/qemu-system-aarch64"], True),
        (["/usr/bin/qemu-img", "create"], False),
        (["vi", "qemu-system.txt"], False),
        ([""], False),
    ],
)
def test_system_emulators_are_recognized_by_their_name(words: list[str], yes: bool) -> None:
    assert is_qemu(words) is yes


@pytest.mark.parametrize(
    ("text", "monitors"),
    [
        ("-qmp unix:/run/a.sock,server=on,wait=off", [Chardev(path="/run/a.sock")]),
        ("--qmp unix:a.sock,server,nowait", [Chardev(path="a.sock")]),
        ("-qmp-pretty unix:a.sock,server=on", [Chardev(path="a.sock")]),
        ("-qmp tcp:127.0.0.1:4444,server=on", [Chardev(tcp="127.0.0.1:4444")]),
        ("-qmp unix:/run/a.sock", []),
        ("-qmp stdio", []),
        ("-monitor unix:/run/hmp.sock,server=on", []),
        ("-chardev socket,id=m,path=/q,server=on -mon m,mode=control", [Chardev(path="/q")]),
        ("-mon chardev=m,mode=control -chardev socket,id=m,path=/q,server=on", [Chardev(path="/q")]),
        ("-chardev socket,id=m,path=/q,server=on -mon m,mode=readline", []),
        ("-chardev socket,id=m,host=::1,port=7,server=on -mon m,mode=control", [Chardev(tcp="::1:7")]),
        ("-chardev socket,id=m,path=q,abstract=on,server=on -mon m,mode=control", []),
        ("-chardev socket,id=m,path=/a,,b,server=on -mon m,mode=control", [Chardev(path="/a,b")]),
        ("-qmp unix:/one,server=on -qmp unix:/two,server=on", [Chardev(path="/one"), Chardev(path="/two")]),
    ],
)
def test_qmp_sockets_that_qemu_listens_on_are_found(text: str, monitors: list[Chardev]) -> None:
    assert read(["qemu-system-x86_64", *shlex.split(text)]).monitors == monitors


def test_json_forms_are_read() -> None:
    chardev = '{"backend": "socket", "id": "m", "path": "/q", "server": true}'
    words = ["qemu-kvm", "-chardev", chardev, "-mon", '{"chardev": "m", "mode": "control"}']
    assert read(words).monitors == [Chardev(path="/q")]


def test_name_and_agent_are_found() -> None:
    line = read(
        shlex.split(
            "qemu-kvm -name web,process=web0 -chardev socket,path=/run/qga,server=on,id=ga -device virtio-serial"
            " -device virtserialport,chardev=ga,name=org.qemu.guest_agent.0"
        )
    )
    assert (line.name, line.agent, line.by_libvirt) == ("web", Chardev(path="/run/qga"), False)


def test_other_ports_are_no_agent() -> None:
    line = read(
        shlex.split(
            "qemu-kvm -chardev socket,path=/run/x,server=on,id=x -device virtserialport,chardev=x,name=spice"
        )
    )
    assert line.agent is None


def test_a_qemu_of_libvirt_is_recognized() -> None:
    line = read(LIBVIRT)
    assert line.by_libvirt
    assert (line.name, line.uuid) == ("web", "76cc0ce4-f370-4996-9369-e2690d0ff767")
    assert (line.monitors, line.agent) == ([Chardev(fd=25)], Chardev(fd=22))


@pytest.mark.parametrize(
    "text", ["-chardev {", "-mon =,=", "-device", "-qmp", "-chardev socket,id=a,,=,path", "-name ,"]
)
def test_what_cannot_be_parsed_is_left_out(text: str) -> None:
    assert read(["qemu-kvm", *text.split()]).monitors == []
