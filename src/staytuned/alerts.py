"""Alerts: what happened and what to do, as a line on standard error and to every address of the user's.

Standard error, and no file of our own: cron, systemd and containers all keep it, and rotate it too.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from staytuned.errors import BusyError, StageError, StaytunedError, from_os_error, reasons
from staytuned.params import Params

Kind = Literal["drift", "blocked", "promotion", "rollback", "failed run", "refused file"]

FURTHER = "STAYTUNED_ALERTS"  # environment variable: more addresses, between spaces
PATIENCE = 5  # seconds for all receivers together


class _StandardError(logging.Handler):
    """Writes to where standard error leads now; logging's own keeps where it led at the import."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, if there is room: no alert may stop a run."""
        with suppress(OSError):
            print(self.format(record), file=sys.stderr, flush=True)


log = logging.getLogger(__name__)
log.propagate = False
log.setLevel(logging.INFO)
log.addHandler(_StandardError())
log.handlers[0].setFormatter(logging.Formatter("%(asctime)s staytuned, %(message)s"))


def send(params: Params, kind: Kind, text: str) -> None:
    """Tell that something of this kind happened; ``text`` says what, and what to do.

    A receiver that fails or is silent costs at most ``PATIENCE`` seconds, and a line in the log, which does not show
    its address: a secret may be part of it.
    """
    log.info("%s: %s", kind, text.replace("\n", "; "))
    urls = {f"alerts.urls, place {place}": url for place, url in enumerate(params.alerts.urls)}
    urls |= {f"{FURTHER}, place {place}": url for place, url in enumerate(os.environ.get(FURTHER, "").split())}
    if not urls:
        return
    from apprise import Apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # it would write addresses into the log
    reached = set[str]()

    def notify(where: str, url: str) -> None:
        receiver = Apprise()
        if receiver.add(url) and receiver.notify(title=f"staytuned, {params.registry.model}: {kind}", body=text):
            reached.add(where)

    threads = [threading.Thread(target=notify, args=one, daemon=True) for one in urls.items()]
    until = time.monotonic() + PATIENCE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    for where in [one for one in urls if one not in reached]:
        log.warning("an alert did not reach its receiver (%s); check the address, and that it answers", where)


@contextmanager
def on_failure(params: Params) -> Iterator[None]:
    """Tell when the block fails, once; not when another run is at work or somebody pressed Ctrl-C."""
    try:
        yield
    except BusyError:
        raise
    except Exception as error:
        if any("told" in vars(reason) for reason in reasons(error)):  # by the flow, within the run
            raise
        vars(error)["told"] = True
        told = from_os_error(error, Path.cwd()) if isinstance(error, OSError) else error
        said = str(told) if isinstance(told, StaytunedError) else repr(error)
        if isinstance(error, StageError) and error.reason:
            said = f"stage {error.stage!r}: {error.reason}"
        cure = "A champion, if there is one, goes on answering; mend that, then `staytuned run` again"
        send(params, "failed run", f"{said}\n{cure}")
        raise
