"""Completion in bash, zsh and fish: the shells ask `vnic completion words` what may come next.

`words` finds the place in the command line by the verbs' own parsers, `sources` has what may stand there,
`option_strings` knows the options of `vnic run`, `running` asks the running vnics for names, and `shells` has the
scripts that `vnic completion SHELL` prints.
"""
