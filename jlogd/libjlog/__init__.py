"""Logs of OmniTI's libjlog: reading them, and taking them over. Nothing here ever writes such a log."""
