"""The tool on phantoms with known answers: what `consilium tools check` looks at, as a test."""

import subprocess
import sys


def test_the_checks() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving", "tools", "check", "doubling_time"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
