"""What the benchmarks share: commands timed in turn, so that a busy hour hits both sides, and a verdict."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # for tiny.py, the tiny road of the tests

BIN = Path(sys.executable).parent
# As an installed program runs: compiled modules are kept, and `python` is this one.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"
}


def wall(command: Sequence[str], folder: Path | None = None) -> float:
    """Seconds that a command takes in ``folder``; what it prints is shown only if it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return seconds


def in_turn(rounds: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Measure the sides one after the other, ``rounds`` times, after one round that does not count."""
    found = [[side() for side in sides] for _ in range(rounds + 1)]
    return [list(values) for values in zip(*found[1:], strict=True)]


def ratios(measured: Sequence[float], against: Sequence[float]) -> list[float]:
    """The ratio of each round."""
    return [one / other for one, other in zip(measured, against, strict=True)]


def spread(values: Sequence[float], unit: str = "") -> str:
    """The median, and what it was taken from."""
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f} in {len(values)} rounds)"


def meets(claim: str, values: Sequence[float], bound: float, unit: str = "") -> bool:
    """Print the median of the rounds beside its bound; whether it is within."""
    met = statistics.median(values) <= bound
    print(f"{claim}: {spread(values, unit)}, at most {bound:.2f}{unit}: {'met' if met else 'NOT MET'}", flush=True)
    return met
