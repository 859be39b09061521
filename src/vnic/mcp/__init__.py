"""`vnic mcp`: a server of the Model Context Protocol on stdio. An agent asks about links and, if it may, pulls them.

`server` has the tools, `answers` what they return, `verb` the command line.
"""
