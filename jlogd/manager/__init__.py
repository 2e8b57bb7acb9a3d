"""Managers: the logs of many nodes pulled into files and other places, without losing or repeating a record."""
