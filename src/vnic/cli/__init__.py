"""The `vnic` command: `run` is the program itself, the other verbs talk to a running one over QMP.

`main` picks the verb and imports only what that needs, so that `vnic run` starts fast.
"""
