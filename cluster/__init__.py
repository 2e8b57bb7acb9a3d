"""The small store under `vip`: etcd, a file on one machine, or memory in tests; three places, one contract.

    types.py      keys, transactions, watches; the `Store` every place is
    etcd.py       etcd 3.4 or newer, over its JSON gateway (transport.py, gateway.py, guard.py)
    solo.py       one machine: a file that its processes share
    walk.py       what a transaction does to a table of keys, shared by the two that are not etcd
    memory.py     the in-memory twin, for tests and simulations

A store is ordered: every change has a revision, a transaction is one revision, and a watch delivers all of them once
and in order. Nothing here trusts leases or clocks; who builds on the store decides what time means.
"""
