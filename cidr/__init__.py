"""cidr: counts of events by source address, kept for years and asked for by address block."""
