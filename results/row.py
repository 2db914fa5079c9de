"""results/row.py LOGS: one row of a table from a run's log.csv, config.json and metrics.json."""

import csv
import json
import sys
from pathlib import Path

logs = Path(sys.argv[1])
with (logs / "log.csv").open() as file:
    rows = list(csv.DictReader(file))
report = json.loads((logs / "metrics.json").read_text())
scores = report["scores"]["output"]
seconds = sum(float(row["seconds"]) for row in rows)
best = min(rows, key=lambda row: float(row["val_l1"]))
cells = [logs.name, f"{len(rows)} epochs", f"{seconds / 3600:.2f} h", f"{report['n']} images"]
for name, value in scores.items():
    told = f"{value['mean']:.4f} ({value['std']:.4f})" if isinstance(value, dict) else f"{value:.4f}"
    cells.append(f"{name} {told}")
cells.append(f"val_l1 {float(rows[-1]['val_l1']):.4f}, best {float(best['val_l1']):.4f} in epoch {best['epoch']}")
print("| " + " | ".join(cells) + " |")
