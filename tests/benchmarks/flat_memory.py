# SPDX-License-Identifier: Apache-2.0
"""Peak memory of `dynabeam replicate` on a small and a ten times larger export.

`python -m tests.benchmarks.flat_memory [--items 300000] [--item_bytes 300]` prints both peaks and
their ratio. The goal is a ratio of at most 1.2 with the default `--round_bytes`.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time


def _measure(folder: str, items: int, item_bytes: int, rest: list[str]) -> tuple[float, float]:
    export = os.path.join(folder, f"export-{items}")
    python = sys.executable
    subprocess.run(
        [
            *[python, "-m", "dynabeam.transforms.testing.export_writer", "--items", str(items)],
            *["--out", export, "--table", "orders", "--item_bytes", str(item_bytes)],
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    command = [python, "-m", "dynabeam.pipelines.command_line", "replicate", f"--export={export}"]
    command += ["--keys=orders:customer,order_no", f"--state_dir={folder}/state-{items}"]
    command += [f"--sink=duckdb:///{folder}/{items}.duckdb", *rest]
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"replicate failed on {items} items: wait status {status}")
    assert isinstance(usage, resource.struct_rusage)
    return usage.ru_maxrss / 1024, time.monotonic() - began


def main() -> None:
    """Runs both and prints the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=300_000)
    parser.add_argument("--item_bytes", type=int, default=300)
    given, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        peaks = []
        for items in (given.items, 10 * given.items):
            peak, seconds = _measure(folder, items, given.item_bytes, rest)
            peaks.append(peak)
            print(f"{items:>10,} items  peak {peak:7,.0f} MiB  {seconds:6.1f} s", flush=True)
        print(f"ratio of the peaks: {peaks[1] / peaks[0]:.2f}")


if __name__ == "__main__":
    main()
