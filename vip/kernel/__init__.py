"""The kernel's half: addresses, lifetimes, the gate, the guard, announcing and probing. See `interface.py`."""
