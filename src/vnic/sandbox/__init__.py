"""What `vnic run` gives up: `-sandbox` and `-run-with`.

`identity` changes the user, `starter` is the process that starts programs from then on, `landlock` and `seccomp` have
the kernel refuse files and system calls, and `paths` refuses a monitor's client the paths that the command line does
not name. `cli.confine` calls them in this order.
"""
