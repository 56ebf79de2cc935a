"""The command as a user types it: in a process of its own."""

import os
import subprocess
import sys
from typing import Any

from staytuned.workspace import Workspace


def command(*words: object) -> list[str]:
    """``staytuned WORDS`` for subprocess, by this very interpreter."""
    return [sys.executable, "-m", "staytuned.cli", *map(str, words)]


def staytuned(workspace: Workspace, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``staytuned WORDS`` in the workspace, with further environment variables, and wait for its end."""
    options: dict[str, Any] = {"capture_output": True, "text": True, "env": os.environ | environment}
    return subprocess.run(command(*words), cwd=workspace.root, timeout=300, **options)
