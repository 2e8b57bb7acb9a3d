"""Failover measured: us beside keepalived and ucarp, on the same bridge, by the same client, with the same oracles."""
