import re
from pathlib import Path

from conftest import write_pair
from PIL import Image

from train import train

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_inference_snippet_is_true_as_printed(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pair(tmp_path / "data" / "demo" / "val" / "001.png", width=512, height=256)
    train(small(n_epochs=1, out_dir=Path("runs/demo")))
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL)[1], {})
    assert Image.open("output.png").size == (64, 64)


def test_every_file_named_is_there():
    for name in re.findall(r"\]\(([\w./]+)\)", README):
        assert (Path(__file__).parents[1] / name).exists(), name
