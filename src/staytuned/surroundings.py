"""What of this machine may change the bits of what is trained on it, beside the packages."""

import platform
from pathlib import Path


def surroundings() -> dict[str, str]:
    """Python's version, the machine's kind and the processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"python": platform.python_version(), "machine": platform.machine(), "processor": processor}
