"""Memory that steps use again."""

import subprocess
import sys

import pytest

# Pages that the system had to clear for a step that takes as many pieces as the one before it, the median.
PAGES = """
import resource, statistics, torch
from staytuned.training.memory import keep_memory

def cleared():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

keep_memory()
pages = []
for _ in range(15):
    before = cleared()
    step = [torch.ones(600_000) for _ in range(20)]
    del step
    pages.append(cleared() - before)
print(pages[0], statistics.median(pages))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is set is a matter of GNU's C library")
def test_memory_that_a_step_gives_back_serves_the_next_one() -> None:
    said = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True).stdout
    first, usual = map(float, said.split())
    assert usual < first / 10
