"""The command `vip`."""
