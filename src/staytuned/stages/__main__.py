"""``python -m staytuned.stages NAME``: run one stage on the workspace that holds the working directory."""

import ctypes
import importlib
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to end this process when its driver dies, so that nobody writes unattended."""
    from staytuned.pipeline import DRIVER

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    driver = os.environ.get(DRIVER)
    if driver and not Path(f"/proc/{driver}").exists():
        sys.exit(1)  # it died before it could be watched


def main() -> int:
    """Run the stage; the exit status is that of staytuned.errors."""
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # Ctrl-C ends it without a traceback, in its imports too
    from staytuned.errors import StaytunedError, from_os_error
    from staytuned.params import Params
    from staytuned.progress import busy
    from staytuned.workspace import Workspace

    die_with_parent()
    try:
        workspace = Workspace.find()
        params = Params.read(workspace.params)
        with busy(f"starting {sys.argv[1]}"):
            stage = importlib.import_module(f"staytuned.stages.{sys.argv[1]}")
        stage.run(workspace, params)
    except StaytunedError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        known = from_os_error(error, Path.cwd())
        print(f"error: {known}", file=sys.stderr)
        return known.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
