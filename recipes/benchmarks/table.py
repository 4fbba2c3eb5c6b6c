"""Collect the audits of two_tasks.sh into a Markdown table: mean and standard deviation over seeds.

python recipes/benchmarks/table.py OUTPUT_FOLDER
"""

import json
import statistics
import sys
from pathlib import Path


def cell(values: list[float]) -> str:
    mean = 100 * statistics.mean(values)
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean:.1f}{spread}"


def main(folder: Path) -> None:
    print("| task | method | seeds | split | dense accuracy | sparse accuracy | max psi |")
    print("|---|---|---|---|---|---|---|")
    for task in sorted(path for path in folder.iterdir() if path.is_dir()):
        for method in ("naive", "ceag"):
            audits = [
                json.loads(path.read_text()) for path in sorted(task.glob(f"*/{method}.json"))
            ]
            for split in ("train", "test"):
                found = [s for audit in audits for s in audit["splits"] if s["split"] == split]
                if found:
                    columns = [
                        cell([s[name] for s in found])
                        for name in ("acc_dense", "acc_sparse", "max_excess_gap")
                    ]
                    row = [task.name, method, str(len(found)), split, *columns]
                    print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
