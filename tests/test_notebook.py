"""docs/pix2pix.ipynb from its first cell to its last, in a kernel of its own and without a network."""

import ast
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, make_data, write_pair

NOTEBOOK = ROOT / "docs" / "pix2pix.ipynb"
FLAGS = "--ngf 4 --ndf 4 --crop-size 64 --load-size 72 --num-workers 0 --device cpu"


def test_the_notebook_is_short_and_was_saved_without_its_outputs():
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 12
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)


def test_what_colab_alone_has_is_asked_for_on_colab_alone():
    """Every mention of its modules lies below `if COLAB`, or behind it in an expression."""
    for cell in nbformat.read(NOTEBOOK, nbformat.NO_CONVERT).cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        guarded = {inner for node in ast.walk(tree) if isinstance(node, ast.If | ast.IfExp)
                   and ast.unparse(node.test) == "COLAB" for part in ast.iter_child_nodes(node)
                   for inner in ast.walk(part)}
        for node in ast.walk(tree):
            named = isinstance(node, ast.Name) and node.id in ("files", "drive")
            imported = isinstance(node, ast.ImportFrom) and "google" in node.module
            assert not (named or imported) or node in guarded, ast.unparse(node)


def executed(place, **parameters):
    """The notebook after it ran in the folder `place`, with these parameters instead of its own."""
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    at = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    lines = [f"{name} = {str(value)!r}" for name, value in ({"CODE": ROOT} | parameters).items()]
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    from nbclient import NotebookClient  # takes half a second

    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": place}}).execute()
    return notebook


def printed(notebook):
    return "".join(output.text for cell in notebook.cells for output in cell.get("outputs", [])
                   if output.output_type == "stream")


def pictures(notebook):
    return [len([output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})])
            for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
def test_the_notebook_runs_on_a_zip_and_the_second_time_resumes(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    shutil.make_archive(tmp_path / "mine", "zip", make_data(tmp_path / "pairs" / "mine").parent)
    write_pair(tmp_path / "photo.png")
    place = tmp_path / "place"
    place.mkdir()
    given = dict(DATA=tmp_path / "mine.zip", PICTURE=tmp_path / "photo.png", RUNS=tmp_path / "drive")
    folder = tmp_path / "drive" / "mine"

    first = executed(place, FLAGS=f"{FLAGS} --n-epochs 1", **given)
    assert "no checkpoint in" in printed(first) and "resuming" not in printed(first)
    assert pictures(first) == [0, 0, 0, 0, 1, 1, 2, 0]  # the preview, the grid, the picture and its translation
    assert (folder / "translated" / "photo.png").exists() and (folder / "page.zip").stat().st_size > 1e5
    assert {path.name for path in place.iterdir()} == {"data", "preview_mine.png"}

    second = executed(place, FLAGS=f"{FLAGS} --n-epochs 2", **given)
    assert f"resuming {folder} after epoch 1" in printed(second) and "epoch 2/2" in printed(second)
    assert pictures(second) == pictures(first) and (folder / "page" / "index.html").exists()

    third = executed(place, FLAGS=f"{FLAGS} --n-epochs 2", **given)  # which is finished
    assert "take the generator that is there" in printed(third) and (folder / "page" / "index.html").exists()


@pytest.mark.slow
def test_what_is_wrong_with_the_pairs_stops_the_notebook(tmp_path):
    from nbclient.exceptions import CellExecutionError

    with pytest.raises(CellExecutionError, match="check.py has ended with status 2"):
        executed(tmp_path, DATA=tmp_path / "nothing", FLAGS=FLAGS)
    with pytest.raises(CellExecutionError, match="let CODE tell"):
        executed(tmp_path, CODE="")
    assert not Path(tmp_path, "runs").exists()
