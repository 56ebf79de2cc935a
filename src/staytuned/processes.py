"""Processes that must not outlive the one that started them, and that collect garbage seldom."""

import atexit
import gc
import os
import signal
import sys

DRIVER = "STAYTUNED_DRIVER"  # environment variable: the process that a stage must not outlive
WATCH = "STAYTUNED_WATCH"  # environment variable: the watch that a flow run must not outlive
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent dies, however that happens."""
    import ctypes  # not for every command

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_watch() -> None:
    """The same for a flow run that a watch started; one that a user started may outlive its shell."""
    watch = os.environ.get(WATCH)
    if watch:
        die_with_parent()
        if os.getppid() != int(watch):
            sys.exit(1)  # it died before it could be watched


def collect_seldom() -> None:
    """Let Python look for dead cycles seldom, and not at all as the process ends.

    By its defaults it goes through all objects again and again while torch, transformers and MLflow are imported, and
    once more at the end: two seconds of a process whose work may take one.
    """
    gc.set_threshold(100_000, 50, 100)
    atexit.register(gc.freeze)
