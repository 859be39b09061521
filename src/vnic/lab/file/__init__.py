"""Lab files: a topology in YAML, in containerlab's words, and what follows from it, without running anything.

`load` reads and checks a file, `plan` says what a running lab needs for it, `graph` draws it, `schema` describes it.
"""
