"""What the processes of `test_kill_9_at_every_write` run: a logger that kills itself at a step.

cidr_kill_worker.py ROOT STEP
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from cidr_logger_support import Steps, config, drained


class Deadly(Steps):
    """kill -9."""

    def stop(self, what: str, path: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    drained(config(Path(sys.argv[1])), Deadly(int(sys.argv[2])))
