"""Running labs: one `vnic run` for each, and for each guest a process that holds it and its console.

`verb` is `vnic lab`; `up` and `down` start and end a lab, `holder` is the process beside a guest.
"""
