"""Coverage-guided fuzzing with atheris: `python tests/fuzz/run.py TARGET [options of libFuzzer]`, or `make fuzz`.

What is new goes to `.fuzz/TARGET`, beside the kept corpus in `tests/fuzz/corpus/TARGET`; a finding to
`.fuzz/crash-...`. Put a finding, made small, into the kept corpus under a name that says what it found: `test_fuzz.py`
replays that. Without options it runs until it is stopped; `-runs=20000 -seed=1` is what CI does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["jlogd"]):
    from targets import TARGETS

HERE = Path(__file__).parent
# A control frame, a slot or a header and some bodies: more makes it slow and finds nothing.
LENGTH_MAX = 4096


def main() -> None:
    """Fuzz one target."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"error: name a target: {', '.join(TARGETS)}")
    name = sys.argv[1]
    found = Path(".fuzz") / name
    found.mkdir(parents=True, exist_ok=True)
    options = [f"-max_len={LENGTH_MAX}", f"-artifact_prefix={found.parent}/", *sys.argv[2:]]
    atheris.Setup([sys.argv[0], *options, str(found), str(HERE / "corpus" / name)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
