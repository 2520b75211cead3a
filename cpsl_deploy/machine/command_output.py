"""What a program of the system says."""

from __future__ import annotations

import subprocess


def output_of(*command: str) -> str:
    """Standard output of a command; empty if it is not installed, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
