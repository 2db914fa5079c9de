"""results/curve.py RUN DATA [READER PALETTE]: scores on val what results/keep.py has kept of a run, and draws it.

Writes curve.csv and curve.png to results/logs/RUN, below $OUT if it is set; what RUN/curve.csv holds is scored already.
READER, a generator for photo → labels, adds the share of pixels whose class it reads in the outputs.
"""

import csv
import os
import shutil
import sys
from pathlib import Path

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))

from evaluate import Evaluate, evaluate, load_pairs  # noqa: E402
from inference.load import load_generator  # noqa: E402

LABELS = {"l1": "L1 ↓", "psnr": "PSNR, dB ↑", "ssim": "SSIM ↑", "nyquist": "Nyquist, 1 is the targets'",
          "pixel_accuracy": "read by the reader ↑"}
COLUMNS = ["epoch", "weights", *LABELS]

run, data = map(Path, sys.argv[1:3])
reader, palette = (Path(sys.argv[3]), sys.argv[4]) if len(sys.argv) > 3 else (None, None)
logs = Path(os.environ.get("OUT", ""), "results", "logs", run.name)
logs.mkdir(parents=True, exist_ok=True)
table = run / "curve.csv"
rows = list(csv.DictReader(table.open())) if table.exists() else []
done = {(int(row["epoch"]), row["weights"]) for row in rows}

for path in sorted((run / "kept").glob("*.pth.tar")):
    epoch, _, average = path.name.removesuffix(".pth.tar").partition("_")
    weights = average or "last"
    if (int(epoch), weights) in done:
        continue
    gen = load_generator(path)
    opts = Evaluate(path, data, reader=reader, palette=palette, num_workers=0)
    row = {"epoch": int(epoch), "weights": weights}
    for name, score in evaluate(gen, *load_pairs(opts, gen), opts)["scores"]["output"].items():
        row[name] = score["mean"] if isinstance(score, dict) else score
    rows.append(row)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

if not rows:
    print(f"nothing is kept of {run}, whose epochs are fewer than EVERY")
    sys.exit()
shown = [name for name in LABELS if all(row.get(name, "") != "" for row in rows)]
figure = Figure(figsize=(3.4 * len(shown), 3.2), layout="constrained")
for axes, name in zip(figure.subplots(1, len(shown)), shown, strict=True):
    for weights in dict.fromkeys(row["weights"] for row in rows):
        own = [row for row in rows if row["weights"] == weights]
        axes.plot([int(row["epoch"]) for row in own], [float(row[name]) for row in own], marker=".", label=weights)
    axes.set(title=LABELS[name], xlabel="epoch")
    axes.grid(alpha=0.3)
axes.legend()
figure.savefig(logs / "curve.png", dpi=100)
shutil.copy(table, logs)
print(f"wrote curve.csv and curve.png to {logs}")
