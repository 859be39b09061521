"""What outlives the process: the journal's database, where it is, and the thread that writes it.

`vnic run` has one `JournalWriter`; `vnic log` and `vnic why --at` read the file themselves where no vnic runs.
"""
