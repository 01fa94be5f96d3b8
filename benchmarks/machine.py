"""What a measurement ran on, in words."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The CPU's model, as Linux names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
