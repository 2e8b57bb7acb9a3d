"""Reading: from a log, here or behind a daemon, to the hands of a consumer."""
