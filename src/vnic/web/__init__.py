"""The server of the page (`-web`): static files, and QMP over a WebSocket, for browsers that have the token.

`vnic run` makes a `Web` for each `-web`. `guard` decides who is answered, `connection` bounds what a browser can take,
`session` is its QMP client, and `static/` is the page itself.
"""
