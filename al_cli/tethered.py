"""`python -m al_cli.tethered MODULE ...`: run a module that ends when the process that started it is gone.

However that ended, kill -9 included, the pipe behind this process' standard input closes with it.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

PATIENCE = 30.0  # seconds for an orderly end


def main() -> None:
    """Run the module as `python -m` would."""
    threading.Thread(target=_end_with_parent, name="al-tether", daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)


if __name__ == "__main__":
    main()
