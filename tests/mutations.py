"""Faults of the kind that only spoil the pictures, put in one at a time: each must turn a test red.

    python tests/mutations.py [WORD ...]        all of them, or those whose description holds one of the words
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutation(NamedTuple):
    what: str
    file: str
    old: str  # is there once
    new: str
    tests: str  # files in tests/ of which one must notice


MUTATIONS = [
    Mutation("D learns that real is 0", "train.py",
             "d_real = bce(disc(x, y), 1.0)", "d_real = bce(disc(x, y), 0.0)", "minimal"),
    Mutation("D's loss reaches G", "train.py",
             "disc(x, y_fake.detach())", "disc(x, y_fake)", "train minimal"),
    Mutation("D learns at twice the speed", "train.py",
             "(d_real + d_fake) / 2", "(d_real + d_fake)", "minimal"),
    Mutation("G's loss saturates", "train.py",
             "g_gan = bce(disc(x, y_fake), 1.0)", "g_gan = -bce(disc(x, y_fake), 0.0)", "minimal"),
    Mutation("L1 counts once, not 100 times", "train.py",
             "g_gan + lambda_l1 * g_l1", "g_gan + g_l1", "minimal"),
    Mutation("G's gradients add up from step to step", "train.py",
             "state.opt_g.zero_grad()", "pass", "minimal"),
    Mutation("the rate decays an epoch late", "train.py",
             "max(0, epoch - n_epochs)", "max(0, epoch - n_epochs - 1)", "train"),
    Mutation("all processes draw one dropout", "train.py",
             "seed_step(cfg.seed, ranks.rank,", "seed_step(cfg.seed, 0,", "distributed"),
    Mutation("D never sees the input", "discriminator.py",
             "torch.cat([x, y], dim=1)", "torch.cat([y, y], dim=1)", "discriminator"),
    Mutation("skips come behind what they should precede", "generator.py",
             "torch.cat([skips.pop(), h], dim=1)", "torch.cat([h, skips.pop()], dim=1)", "published"),
    Mutation("a block too few has dropout", "generator.py",
             "if i >= depth - 3", "if i >= depth - 2", "generator"),
    Mutation("the bottleneck has BatchNorm", "generator.py",
             "norm=not innermost", "norm=True", "generator"),
    Mutation("weights begin ten times as large", "utils.py",
             "else 0.0, 0.02)", "else 0.0, 0.2)", "generator"),
    Mutation("input and target are cropped and mirrored apart", "pairs/jitter.py",
             "return placed(self.place, pair)",
             "return np.concatenate([placed(self.place, part) for part in np.split(pair, [x.stored], 2)], 2)",
             "dataset"),
    Mutation("the sides are swapped", "dataset.py",
             "of_x, of_y = (of_a, of_b) if", "of_x, of_y = (of_b, of_a) if", "sizes"),
    Mutation("labels are blended when they are resized", "pairs/geometry.py",
             'return "nearest" if label else self.interpolation', "return self.interpolation", "dataset geometry"),
    Mutation("white is a little less than 1", "pairs/images.py",
             "div_(127.5)", "div_(128)", "minimal"),
    Mutation("masked pixels still count half", "pairs/values.py",
             "(mask + 1) / 2), y", "(mask + 3) / 4), y", "values"),
    Mutation("a resumed run has lost its optimisers", "runtime/state.py",
             'new = {**new, "param_groups": part.state_dict()["param_groups"]}', "continue", "train checkpoint"),
    Mutation("a resumed run has lost its average", "runtime/ema.py",
             'self.net.load_state_dict(saved["net"])', "pass", "checkpoint train hd_step"),
    Mutation("an epoch that was cut begins with pairs that were seen", "pairs/loading.py",
             "rest = order[self.start :]", "rest = order[: self.length - self.start]", "train checkpoint"),
    Mutation("validation takes BatchNorm's running statistics", "inference/validation.py",
             "with gen.test_time(),", 'with gen.test_time("running"),', "train"),
    Mutation("SSIM believes in a range of 2", "inference/metrics.py",
             "measure(a, b, data_range=1.0)", "measure(a, b, data_range=2.0)", "evaluate"),
    Mutation("tiles end where the next one begins", "inference/translate.py",
             "* math.pi / 2) ** 2", "* math.pi / 2) ** 0", "predict inference"),
]


def seen(mutation: Mutation) -> bool:
    """Whether a test fails in a copy of this checkout that has the fault."""
    files = subprocess.run(["git", "ls-files", "-z", "*.py", "*.md", "*.toml", "*.txt", "*.html", "*.js"], cwd=ROOT,
                           check=True, capture_output=True, text=True).stdout.split("\0")
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(None, files):
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((ROOT / name).read_bytes())
        path = Path(folder, mutation.file)
        path.write_text(path.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8")
        tests = [f"tests/test_{name}.py" for name in mutation.tests.split()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--slow", "-m", "not browser",
                   *tests]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    told = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    print("red  " if done.returncode == 1 else "GREEN", mutation.what, *told[:1], sep="  ", flush=True)
    return done.returncode == 1


if __name__ == "__main__":
    wanted = [each for each in MUTATIONS if not sys.argv[1:] or any(word in each.what for word in sys.argv[1:])]
    missed = [each.what for each in wanted if not seen(each)]
    print(f"{len(wanted) - len(missed)} of {len(wanted)} were seen")
    sys.exit(bool(missed))
