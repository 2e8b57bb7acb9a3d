"""The commands: `jlogd` (the daemon) and `jlogctl` (everything one does to a log).

One module a command. `targets` turns words into objects, `output` prints, `errors` ends a command, `params` reads
options, `units` knows numbers with units; no command does any of it by itself.
"""
