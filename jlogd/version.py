"""The version of this jlogd."""

VERSION = "0.1.0"
