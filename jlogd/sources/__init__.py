"""Sources: what turns input (syslog, followed files, a pipe) into batches and gives them to a writer."""
