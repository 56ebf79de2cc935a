"""DVC as this project uses it: the stage graph, what is stale, one stage run, pointers, the remote."""

import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from staytuned import torn
from staytuned.entry_points import task_files
from staytuned.errors import BusyError, DataError, MissingError, RegistryError, StageError, disk_full, is_full
from staytuned.files import sha256, write_text
from staytuned.processes import DRIVER
from staytuned.workspace import Workspace

SOURCE = "src/staytuned"  # where dvc.yaml finds the modules of the stages
INTERRUPTED = (130, -signal.SIGINT)  # exit statuses of a stage that was stopped by Ctrl-C


class _Transfers(logging.Handler):
    """Why files were not copied: DVC tells that in its log alone, where it would also print it."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the reason."""
        if record.exc_info and record.exc_info[1]:
            self.failures.append(record.exc_info[1])


_transfers = _Transfers()


def _told_of_git(settings: str, inside: bool) -> str:
    """Settings of DVC that say whether there is a repository of git; without a word there is."""
    value = f"no_scm = {str(not inside).lower()}"
    if "no_scm" in settings:
        return re.sub(r"no_scm *= *\w+", value, settings)
    if inside:
        return settings
    core = "[core]\n"
    return settings.replace(core, f"{core}    {value}\n", 1) if core in settings else f"{settings}{core}    {value}\n"


@contextmanager
def opened(workspace: Workspace) -> Iterator[Any]:
    """The workspace's DVC repository. Outside git, DVC is told so in its local, unversioned settings.

    Raises:
        BusyError: another DVC process holds the workspace.
        DataError: dvc.yaml, dvc.lock or a pointer cannot be read.
    """
    from dvc.exceptions import PrettyDvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    local = workspace.root / ".dvc" / "config.local"
    before = local.read_text() if local.exists() else ""
    told = _told_of_git(before, _inside_git(workspace.root))
    if told != before:
        write_text(local, told)  # it may hold the passwords of remotes
    logging.getLogger("dvc").setLevel(logging.ERROR)
    log = logging.getLogger("dvc_data.hashfile.transfer")
    log.handlers, log.propagate = [_transfers], False
    _transfers.failures.clear()
    with chdir(workspace.root):  # DVC looks a stage's name up in the working directory
        repo = Repo(str(workspace.root))
        try:
            torn.mend(repo)
            yield repo
        except LockError as error:
            raise BusyError(f"DVC is at work in {workspace.root}: {error}; try again when it ends") from error
        except PrettyDvcException as error:  # of a file of DVC's that cannot be read
            merged = "`dvc status` shows where; of a dvc.lock that git merged take either side; then run again"
            raise DataError(f"{error}; {merged}") from error
        finally:
            repo.close()


def _inside_git(root: Path) -> bool:
    """Whether git tracks what is in ``root``: a folder that it ignores, such as the demo's, is outside."""
    if (root / ".git").exists() or not any((folder / ".git").exists() for folder in root.parents):
        return (root / ".git").exists()
    try:
        return subprocess.run(["git", "check-ignore", "--quiet", str(root)], cwd=root).returncode != 0
    except FileNotFoundError:  # no git at hand to ask
        return True


def stage_order(workspace: Workspace) -> list[str]:
    """Names of the stages of dvc.yaml, each after those it depends on."""
    import networkx
    from dvc.stage import PipelineStage

    with opened(workspace) as repo:
        order = list(networkx.lexicographical_topological_sort(repo.index.graph.reverse(), key=_address))
    return [stage.name for stage in order if isinstance(stage, PipelineStage)]


def stages_from(workspace: Workspace, name: str) -> list[str]:
    """Names of a stage and of all that need what it makes."""
    import networkx

    with opened(workspace) as repo:
        graph = repo.index.graph  # its edges point from a stage to what that needs
        (stage,) = (stage for stage in graph if stage.addressing == name)
        return sorted(later.addressing for later in {stage, *networkx.ancestors(graph, stage)})


def _address(stage: Any) -> str:
    return str(stage.addressing)


def stale(workspace: Workspace) -> list[str]:
    """Addresses of the stages and data pointers that do not agree with dvc.lock; empty when all is clean."""
    with opened(workspace) as repo:
        return sorted(repo.status())


def run_stage(workspace: Workspace, name: str) -> bool:
    """Run one stage of dvc.yaml if its inputs changed; True if it ran or was restored, False if it was clean.

    Raises:
        StageError: the stage's command failed; carries its exit status.
        BusyError: another DVC process holds the workspace.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    # `python` in dvc.yaml is the interpreter that runs this.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ[DRIVER] = str(os.getpid())
    workspace.stage_error.unlink(missing_ok=True)
    with opened(workspace) as repo:
        torn.forget_dead_locks(repo)
        try:
            return bool(repo.reproduce(name, single_item=True))
        except LockError:
            raise
        except DvcException as error:
            cause = error.__cause__ or error
            status = re.search(r"exited with (-?\d+)", str(cause))
            if is_full(error) and status is None:
                raise disk_full(workspace.root) from error
            if status is None:
                raise DataError(f"stage {name!r} could not run: {cause}") from error
            if int(status[1]) in INTERRUPTED:  # DVC holds Ctrl-C back while a stage runs; the stage has had it
                raise KeyboardInterrupt from error
            said = workspace.stage_error
            raise StageError(name, int(status[1]), said.read_text() if said.exists() else "") from error


def track(workspace: Workspace, *paths: Path) -> None:
    """Point DVC at folders of data (``PATH.dvc``), as far as they are there, and, inside git, stage the pointers;
    nothing is committed.
    """
    with opened(workspace) as repo:
        torn.forget_dead_locks(repo)
        for path in paths:
            if path.exists():
                repo.add(str(path))
        if repo.scm.__class__.__name__ == "Git":
            code = workspace.root / "code.yaml"
            repo.scm.add([str(path) for path in (workspace.manifest, code) if path.exists()])


def push(workspace: Workspace) -> int:
    """Copy all data, and what the stages made of it, to the DVC remote; the number of files copied.

    Raises:
        RegistryError: the remote cannot be written, or lacks something that is lost here too.
    """
    from dvc.lock import LockError

    with opened(workspace) as repo:
        try:
            copied, where, cache = int(repo.push()), repo.cloud.get_remote(command="push"), repo.cache.local
            if where.fs.version_aware:  # it keeps files by their paths, and DVC compares those
                return copied
            needed, remote = _needed(repo), where.odb
            # DVC takes the files of a folder for copied where the folder's own object is there: the remote is asked
            lacking = set(needed).difference(remote.oids_exist(list(needed)))
            there = sorted(cache.oids_exist(list(lacking)))
            remote.add([cache.oid_to_path(oid) for oid in there], cache.fs, there)
            lost = sorted(needed[oid] for oid in lacking.difference(there))
        except LockError:  # `opened` says what to do
            raise
        except Exception as error:  # DVC lets the storage's own errors through
            cause = next(iter(_transfers.failures), error)
            if is_full(cause):
                raise disk_full(getattr(cause, "filename2", None) or "the DVC remote") from error
            raise RegistryError(
                f"the DVC remote could not be written: {cause}; check `dvc remote list`, then run again"
            ) from error
    if lost:
        raise RegistryError(
            f"neither the DVC remote nor the cache here has {len(lost)} of the objects that dvc.lock and the pointers "
            f"name: {', '.join(lost[:3])}; `dvc commit --force` brings back those whose files are still there, "
            "`dvc pull` those that another remote has; then run again"
        )
    return copied + len(there)


def _needed(repo: Any) -> dict[str, str]:
    """All objects that dvc.lock and the pointers name, files of folders too, by hash, with their paths."""
    found = {}
    for out in repo.index.outs:
        if out.hash_info and out.use_cache:
            found[out.hash_info.value] = str(out)
            for key, _, about in (out.get_obj() or ()) if out.hash_info.isdir else ():
                found[about.value] = f"{out}/{'/'.join(key)}"
    return found


def pull(workspace: Workspace, pointers: list[str]) -> None:
    """Fetch the data that pointers name from the DVC remote.

    Raises:
        MissingError: it is not there.
    """
    with opened(workspace) as repo:
        try:
            repo.pull(pointers)
        except Exception as error:  # DVC lets the storage's own errors through
            cause = next(iter(_transfers.failures), error)
            raise MissingError(f"the DVC remote does not have what {', '.join(pointers)} name: {cause}") from error


def pin_code(workspace: Workspace) -> None:
    """In a workspace without the source beside it, write what the stages' code hashes to into ``code.yaml``.

    There, that file stands for the modules that dvc.yaml names where the source is at hand.
    """
    file = workspace.root / "code.yaml"
    if (workspace.root / SOURCE).is_dir():
        return
    lines = [f"{stage}: {digest}\n" for stage, digest in code_hashes().items()]
    text = "# What the installed stages hash to; written by staytuned, tracked by dvc.yaml.\n" + "".join(lines)
    if not file.exists() or file.read_text() != text:
        write_text(file, text)


def code_hashes() -> dict[str, str]:
    """SHA-256 of the modules of each stage, as the project's own dvc.yaml names them."""
    package = Path(__file__).parent
    stages = YAML(typ="safe", pure=True).load(package / "template" / "dvc.yaml")["stages"]
    hashes = {}
    for name, stage in stages.items():
        paths = [package / dep.removeprefix(f"{SOURCE}/") for dep in stage["deps"] if dep.startswith(SOURCE)]
        modules = [module for path in paths for module in (sorted(path.glob("*.py")) if path.is_dir() else [path])]
        if package / "tasks" in paths:
            modules += task_files()
        hashes[name] = hashlib.sha256("".join(sha256(module) for module in modules).encode()).hexdigest()
    return hashes
