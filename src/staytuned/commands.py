"""What each word of the command line does; a command's module is imported only when it runs."""

import argparse
from collections.abc import Callable

TYPE_CHECKING = False  # importing typing's own would take a tenth of the time that help takes
if TYPE_CHECKING:
    from staytuned.workspace import Workspace

Command = Callable[["Workspace", argparse.Namespace], None]


def run(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Validate, split, encode, train, evaluate, decide, register, promote: whatever is left to do.

    Example: staytuned run --if-needed
    """
    from staytuned import road

    road.run(workspace, arguments.if_needed)


def train(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Validate, split, encode and train: bring the candidate up to date, without judging it.

    Example: staytuned train --verify
    """
    from staytuned import verify

    verify.train(workspace, arguments.verify)


def ingest(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Make a batch of a file of rows: csv, tsv, jsonl or Parquet.

    Example: staytuned ingest rows.csv
    """
    from staytuned import road

    road.ingest(workspace, arguments.file)


def readmit(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Take in rows that were corrected in a copy of data/quarantine.csv.

    Example: staytuned readmit corrected.csv
    """
    from staytuned import road

    road.readmit(workspace, arguments.file)


def withdraw(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Take a batch out, so that the next run trains without its rows.

    Example: staytuned withdraw 1ff7ae71ea61f03b --why "labelled by the wrong team"
    """
    from staytuned import road

    road.withdraw(workspace, arguments.batch, arguments.why)


def example(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Fetch one source of the example data into data/incoming, for `staytuned ingest`; a watch takes it in by itself.

    Example: staytuned example tweet
    """
    from staytuned.data.example import fetch

    path = fetch(arguments.source, workspace.root / "data" / "incoming")
    print(f"{path}; `staytuned ingest {path.relative_to(workspace.root)}` takes it in, or a watch that is at work")


def predict(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Let the champion label a text, or each row of a file.

    Example: staytuned predict "it works well"
    """
    from staytuned import serve

    if arguments.file:
        count, unanswered = serve.predict_file(workspace, arguments.file, arguments.out)
        but = f", {unanswered} of them unanswered: see `problem`" if unanswered else ""
        print(f"{count} rows in {arguments.out}{but}")
    else:
        print(serve.predict_text(workspace, arguments.text, arguments.pair))


def drift(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Hold rows that nobody has labelled against those that the champion knew; the exit status is 0 at drift too.

    Example: staytuned drift rows.csv
    """
    from staytuned.drift_of import drift_of

    drift_of(workspace, arguments.file)


def compare(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Set zero-shot, few-shot and full fine-tuning side by side on the workspace's rows.

    Example: staytuned compare
    """
    from staytuned import compare as comparison

    comparison.compare(workspace)


def backtest(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Run the workspace's own history under several policies of retraining: quality against cost.

    Example: staytuned backtest --policies never staytuned scratch periodic-3
    """
    from staytuned.backtest import run

    run.backtest(workspace, arguments.policies, arguments.seeds)


def demo(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Play twelve arrivals of the example through the whole road, in a workspace of their own.

    Example: staytuned demo
    """
    from staytuned import demo

    demo.demo(arguments.folder)


def sync(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Set the alias back to what the ledger says, and pin today's champion for the next evaluation.

    Example: staytuned sync
    """
    from staytuned import road

    road.sync(workspace)


def status(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Show the champion, since when and why, the last decisions, drift, and what the next training waits for.

    Example: staytuned status
    """
    from staytuned import champion

    champion.status(workspace)


def history(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Show every entry of the ledger, and whether any was changed or taken out.

    Example: staytuned history
    """
    from staytuned import champion

    champion.history(workspace)


def rollback(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Make the champion before this one champion again.

    Example: staytuned rollback --why "angry letters"
    """
    from staytuned import champion

    champion.rollback(workspace, arguments.why)


def promote(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Make a registered version champion by hand.

    Example: staytuned promote 2 --why "judged by the editors"
    """
    from staytuned import champion

    champion.promote(workspace, arguments.version, arguments.why)


def rebuild(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Train a registered version again, from what it carries, and compare.

    Example: staytuned rebuild 1
    """
    from staytuned import rebuild as building

    building.rebuild(workspace, arguments.version, arguments.folder)


def ui(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Serve the pages of MLflow and Prefect on loopback until Ctrl-C.

    Example: staytuned ui
    """
    from staytuned import pages

    pages.serve(workspace)


def watch(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Run the road by a schedule and whenever a file arrives in data/incoming, until Ctrl-C.

    Example: staytuned watch
    """
    from staytuned import watch as watching

    watching.watch(workspace)


def init(workspace: "Workspace", arguments: argparse.Namespace) -> None:
    """Make a workspace for data of your own.

    Example: staytuned init my-workspace
    """
    from staytuned import start

    start.init(arguments.folder, arguments.task)
    print(f"made a workspace in {arguments.folder}: set your columns and task in its params.yaml, then in that folder")
    print("`staytuned ingest FILE` and `staytuned run`")


COMMANDS: list[Command] = [
    *(run, ingest, readmit, withdraw, example, watch, predict, drift, train),
    *(status, history, rollback, promote, rebuild, sync),
    *(compare, backtest, demo, ui, init),
]
