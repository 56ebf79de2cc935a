"""``python -m staytuned.stages NAME``: run one stage on the workspace that holds the working directory."""

import importlib
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from staytuned.processes import DRIVER, collect_seldom, die_with_parent


def die_with_driver() -> None:
    """So that nobody writes unattended."""
    die_with_parent()
    driver = os.environ.get(DRIVER)
    if driver and not Path(f"/proc/{driver}").exists():
        sys.exit(1)  # it died before it could be watched


def main() -> int:
    """Run the stage; the exit status is that of staytuned.errors."""
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # Ctrl-C ends it without a traceback, in its imports too
    collect_seldom()
    from staytuned.errors import StaytunedError, from_os_error
    from staytuned.params import Params
    from staytuned.progress import busy, console
    from staytuned.workspace import Workspace

    die_with_driver()
    console.quiet = os.environ.get("RANK", "0") != "0"  # of several processes the first one shows how far they are
    try:
        workspace = Workspace.find()
        params = Params.read(workspace.params)
        with busy(f"starting {sys.argv[1]}"):
            stage = importlib.import_module(f"staytuned.stages.{sys.argv[1]}")
        stage.run(workspace, params)
    except (StaytunedError, OSError) as error:
        known = from_os_error(error, Path.cwd()) if isinstance(error, OSError) else error
        print(f"error: {known}", file=sys.stderr)
        with suppress(OSError, StaytunedError):  # the disk may be full
            Workspace.find().stage_error.write_text(str(known), encoding="utf-8")
        return known.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
