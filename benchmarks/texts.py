"""The time and memory that the texts take.

    python benchmarks/texts.py

12,000 stories by grammar on one core, their memory against that of 2,000, and the audit of them with and
without the gates that need a model. Each is a process of its own, as a user starts it, so that imports
count. The first audit of a model measures the fluency of the shipped texts and keeps it in the cache;
an empty cache folder shows what that costs.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "experiments.cli"]


def timed(*args: str) -> tuple[float, float]:
    """Seconds, and the peak resident memory in MiB, of one command."""
    start = time.perf_counter()
    process = subprocess.Popen([*COMMAND, *args], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"storyprior {' '.join(args)} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    """Print one line for each measurement."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder, "story.jsonl"))
        for documents in ("2000", "12000"):
            seconds, peak = timed("corpus", "story", "--documents", documents, "--out", out)
            print(f"{documents:>6} stories      {seconds:6.1f} s   peak {peak:5.0f} MiB")
        for name, *options in (("without models", "--no-fluency"), ("whole",), ("whole, again",)):
            seconds, peak = timed("audit", out, *options)
            print(f"audit, {name:<14} {seconds:6.1f} s   peak {peak:5.0f} MiB")


if __name__ == "__main__":
    main()
