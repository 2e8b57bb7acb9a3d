"""Floating addresses: spread over the live nodes of a cluster, moved when a node goes, never owned twice.

`docs/vip.md` is the manual. `vip` stands on `cluster` (the store) and on a few helpers of the house (errors, TOML with
lines, how a command ends); nothing in `jlogd` knows of it.
"""
