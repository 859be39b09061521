"""What tells others of the command line: completion in shells, man pages, JSON Schemas.

All of it is made from the parsers of the verbs, the types of their answers, and the manual. `vnic completion`,
`make man` and `make schemas` run it.
"""
