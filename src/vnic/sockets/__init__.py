"""Sockets as all of vnic binds them; `bind` has the rule for paths, `lock` and `diag` tell who uses one."""
