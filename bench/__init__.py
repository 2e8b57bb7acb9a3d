"""Benchmarks: jlogd beside what a user would pick instead, on one machine, with the same durability, in one run.

`python -m bench` runs them; `bench.__main__` says how. Nothing here is installed with the package.
"""
