"""The command ``staytuned``: its words, and what its exit status says."""

import argparse
import sys

from staytuned import commands

TYPE_CHECKING = False  # importing typing's own would take a tenth of the time that help takes
if TYPE_CHECKING:
    from pathlib import Path

POLICIES = ["never", "staytuned", "periodic-3", "scratch"]
SOURCES = ("product", "film", "tweet", "editorial")


def path(text: str) -> "Path":
    """A path on the command line."""
    from pathlib import Path

    return Path(text)


class _Version(argparse.Action):
    """Looked up when it is asked for: that takes as long as all else."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print it."""
        from importlib.metadata import version

        print(version("staytuned"))
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """The command line; a command's help is its docstring."""
    top = argparse.ArgumentParser("staytuned", description="Keeps a language model good while its data drifts.")
    top.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    top.add_argument("--workspace", type=path, metavar="DIR", help="default: the one that holds the working directory")
    words = top.add_subparsers(required=True, metavar="COMMAND")
    for command in commands.COMMANDS:
        text = "\n".join(line.strip() for line in (command.__doc__ or "").splitlines())
        first, form = text.splitlines()[0], argparse.RawDescriptionHelpFormatter
        sub = words.add_parser(command.__name__, help=first, description=text, formatter_class=form)
        sub.set_defaults(command=command, usage_error=sub.error)
        sub.add_argument("--workspace", type=path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # here too
        if command is commands.run:
            sub.add_argument("--if-needed", action="store_true", help="train only if a trigger asks for it")
        elif command is commands.train:
            sub.add_argument("--verify", action="store_true", help="train it again elsewhere and compare the weights")
        elif command in (commands.ingest, commands.readmit, commands.drift):
            sub.add_argument("file", type=path)
        elif command is commands.example:
            sub.add_argument("source", choices=SOURCES)
        elif command is commands.predict:
            sub.add_argument("text", nargs="?")
            sub.add_argument("--pair", metavar="TEXT", help="the second text, in tasks on pairs")
            sub.add_argument("--file", type=path, help="rows to label: csv, tsv, jsonl or Parquet")
            sub.add_argument("--out", type=path, help="csv to write")
        elif command is commands.backtest:
            sub.add_argument("--policies", nargs="+", default=POLICIES, help=f"default: {' '.join(POLICIES)}")
            sub.add_argument("--seeds", nargs="+", type=int, default=[1], help="of the trainings, one run for each")
        elif command is commands.demo:
            sub.add_argument("folder", type=path, nargs="?", default=path("demo"), help="default: demo")
        elif command in (commands.rollback, commands.promote, commands.withdraw):
            if command is commands.promote:
                sub.add_argument("version", type=int)
            elif command is commands.withdraw:
                sub.add_argument("batch", help="its 16 digits, as `ingest` says them; another word lists all")
            sub.add_argument("--why", metavar="TEXT", required=command is not commands.rollback, help="for the ledger")
        elif command is commands.rebuild:
            sub.add_argument("version", type=int)
            sub.add_argument("folder", type=path, nargs="?", help="to build in; default: one that is gone afterwards")
        elif command is commands.init:
            sub.add_argument("folder", type=path)
            sub.add_argument("--task", default="text-classification", help="what is learned; an unknown one lists all")
    return top


def main() -> int:
    """Run a command; the exit status is that of staytuned.errors."""
    arguments = parser().parse_args()
    elsewhere = arguments.command in (commands.init, commands.demo)  # which make a workspace
    if elsewhere and arguments.workspace:
        arguments.usage_error(
            f"`staytuned {arguments.command.__name__} DIR` names its folder itself, without --workspace"
        )
    if arguments.command is commands.predict and (
        (arguments.text is None) != bool(arguments.file)
        or bool(arguments.file) != bool(arguments.out)
        or (arguments.file and arguments.pair)
    ):
        arguments.usage_error("give a text, or --file with --out; --pair goes with a text")
    from staytuned.errors import StaytunedError, from_os_error
    from staytuned.processes import collect_seldom
    from staytuned.workspace import Workspace

    collect_seldom()
    try:
        workspace = Workspace(path(".")) if elsewhere else Workspace.find(arguments.workspace)
        arguments.command(workspace, arguments)
    except StaytunedError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        known = from_os_error(error, (arguments.workspace or path(".")).resolve())
        print(f"error: {known}", file=sys.stderr)
        return known.exit_status
    except KeyboardInterrupt:
        ends = arguments.command in (commands.ui, commands.watch, commands.init, commands.rebuild)
        on = "" if ends else f"; `staytuned {arguments.command.__name__}` again goes on from here"
        print(f"stopped{on}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
