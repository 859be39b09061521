"""The monitor: QEMU's QMP and HMP over a machine of NICs and back-ends.

`schema` is the conversion layer, `commands` the table of what can be asked, `qmp` and `hmp` the two languages,
`server` the sockets; the machine that is asked comes as a `MonitoredMachine`.
"""
