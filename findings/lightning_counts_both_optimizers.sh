#!/usr/bin/env bash
# Guess: a step of Lightning is a batch: Trainer(max_steps=80_000) takes the paper's 80,000 steps of batch 1, and
# ModelCheckpoint(every_n_train_steps=400) keeps the network after each epoch of 400 pairs.
# What happens: Lightning counts every step of every optimizer. A GAN that updates D and G in training_step counts two a
# batch: training ends after half of the batches, and steps in names and logs, and every_n_train_steps, are twice the
# batches. So a run compared with another program's "after N steps" has seen half of its pairs.
# Versions: lightning 2.6.6, torch 2.14.1, NumPy 2.4.6.
# Why it matters here: two optimizers are what a GAN has, Lightning supports them only by manual optimization, and
# results of pix2pix are told by steps.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet lightning==2.6.6 torch==2.14.1 numpy==2.4.6
cd "$scratch"
"$scratch/env/bin/python" - <<'PYTHON' 2>/dev/null
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

print(f"lightning {lightning.__version__}, torch {torch.__version__}")


class Pix2Pix(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.gen = nn.Conv2d(1, 1, 1)
        self.disc = nn.Conv2d(2, 1, 1)
        self.batches = 0

    def configure_optimizers(self):
        return torch.optim.Adam(self.gen.parameters()), torch.optim.Adam(self.disc.parameters())

    def training_step(self, batch, index):
        (x,) = batch
        y_fake = self.gen(x)
        for opt, y in zip(reversed(self.optimizers()), (y_fake.detach(), y_fake), strict=True):
            opt.zero_grad()
            self.manual_backward(self.disc(torch.cat([x, y], dim=1)).mean())
            opt.step()
        self.batches += 1


pairs = DataLoader(TensorDataset(torch.rand(100, 1, 4, 4)))
quiet = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
model = Pix2Pix()
trainer = lightning.Trainer(max_steps=80, enable_checkpointing=False, **quiet)
trainer.fit(model, pairs)
print(f"max_steps=80: {model.batches} batches, global_step {trainer.global_step}")
assert (model.batches, trainer.global_step) == (40, 80)
kept = ModelCheckpoint("kept", filename="{step}", every_n_train_steps=50, save_top_k=-1)
lightning.Trainer(max_epochs=1, callbacks=[kept], **quiet).fit(Pix2Pix(), pairs)
names = sorted(int(path.stem.removeprefix("step=")) for path in Path("kept").iterdir())
print(f"an epoch of 100 batches, every_n_train_steps=50: checkpoints after steps {names}")
assert names == [50, 100, 150, 200]
PYTHON
