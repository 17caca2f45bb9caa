"""Serve a small planner model, print its scores beside the built-in planner's, and keep them: `make vllm-scores`."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.vllm.conftest import serving


def main() -> None:
    """Serve, score, stop."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--profile", default="box-fixture")
    given = reader.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(given.profile, Path(folder) / "log") as served:
        told = ["--llm-url", served.url, "--llm-model", given.profile, "--out", str(given.out)]
        subprocess.run([sys.executable, "-m", "tests.vllm.scores", *told], check=True)


if __name__ == "__main__":
    main()
