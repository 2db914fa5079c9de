"""Files of export.py as other programs find them: free and fixed sizes, names, formats that need a package."""

import copy
import importlib.util
import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import call, write_generator

import export as export_module
from generator import Generator
from hd.networks import GlobalGenerator, LocalEnhancer
from inference.export import Cropped, crop_instead_of_padding, export
from inference.trained import Trained
from pairs.geometry import Geometry
from pairs.identity import Known
from runtime.files import temporary_name
from utils import UserError


def y_fake(gen, x, norm="image"):
    with torch.no_grad(), gen.test_time(norm, dropout=False):
        return gen(x)


def made_by(path, x):
    """What the exported network makes of x."""
    if path.suffix == ".onnx":
        return torch.from_numpy(onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})[0])
    return torch.export.load(path).module()(x).detach()


both = pytest.mark.parametrize("name", ["gen.pt2", "gen.onnx"])


@pytest.mark.slow
@both
@pytest.mark.parametrize("norm", ["image", "running"])
def test_an_export_equals_the_network_at_other_sizes_whatever_the_layout_of_its_weights(gen, tmp_path, name, norm):
    """Training leaves them channels-last, of which the tracer would ask for larger sizes."""
    checkpoint = write_generator(tmp_path / "gen.pth.tar", copy.deepcopy(gen).to(memory_format=torch.channels_last))
    status, out, err = call(export_module, "--checkpoint", checkpoint, "--output", tmp_path / name, "--norm", norm)
    assert status == 0 and name in out, err
    for shape in ((1, 3, 64, 64), (1, 3, 64, 128), (3, 3, 192, 64)):
        x = torch.rand(shape) * 2 - 1
        torch.testing.assert_close(made_by(tmp_path / name, x), y_fake(gen, x, norm), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_fixed_size_is_in_the_file_and_gives_the_same_picture(gen, tmp_path):
    for name in ("gen.onnx", "gen.pt2"):
        assert export(gen, tmp_path / name, size=(64, 128)).endswith("for one image of 128×64 at a time")
    session = onnxruntime.InferenceSession(tmp_path / "gen.onnx")
    assert session.get_inputs()[0].shape == session.get_outputs()[0].shape == [1, 3, 64, 128]
    assert json.loads(session.get_modelmeta().custom_metadata_map["size"]) == [128, 64]
    x = torch.rand(1, 3, 64, 128) * 2 - 1
    lowered = torch.export.load(tmp_path / "gen.pt2").run_decompositions()  # what ExecuTorch and coremltools begin with
    for made in (made_by(tmp_path / "gen.onnx", x), lowered.module()(x)):
        torch.testing.assert_close(made, y_fake(gen, x), rtol=0, atol=1e-4)
    sizes = {size for node in lowered.graph.nodes if "val" in node.meta and isinstance(node.meta["val"], torch.Tensor)
             for size in node.meta["val"].shape}
    assert all(type(size) is int for size in sizes)  # none that a converter would have to derive


def test_upsampling_for_litert_is_that_of_resnets(tmp_path):
    """Its converter refuses output_padding: none is left, and outputs stay the same."""
    for kind in (GlobalGenerator, LocalEnhancer):
        net = kind(3, 3, 4, n_downs=2, n_blocks=1).eval()
        other = copy.deepcopy(net)
        crop_instead_of_padding(other)
        assert any(isinstance(layer, Cropped) for layer in other.modules())
        x = torch.rand(1, 3, 32, 48) * 2 - 1
        torch.testing.assert_close(y_fake(other, x), y_fake(net, x), rtol=0, atol=1e-5)


def test_running_statistics_need_a_norm_that_has_them(tmp_path):
    with pytest.raises(UserError, match="--norm running takes the statistics of BatchNorm, of which .* none"):
        export(GlobalGenerator(3, 3, 4, n_downs=2, n_blocks=1), tmp_path / "gen.pt2", norm="running")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kept", "saved", "levels"), [
    ("gen.pt2", "half", 1.5, 0.1), ("gen.onnx", "half", 1.5, 0.1), ("gen.onnx", "int8", 2.8, 2)])
def test_weights_in_fewer_bits_are_a_smaller_file_and_the_same_image(tmp_path, name, kept, saved, levels):
    """fp16 arithmetic would be seen; so would inputs and outputs that a program must convert."""
    torch.manual_seed(0)
    gen = Generator(3, 3, 16, 64).eval()  # of smaller weights, the exporter keeps what they are computed to
    small, full = tmp_path / f"small {name}", tmp_path / name
    checkpoint = write_generator(tmp_path / "gen.pth.tar", gen, dict(ngf=16))
    status, _, err = call(export_module, "--checkpoint", checkpoint, "--output", small, f"--{kept}")
    assert status == 0, err
    export(gen, full)
    n = sum(parameter.numel() for parameter in gen.parameters())
    assert small.stat().st_size < full.stat().st_size - saved * n
    assert 4 * n < full.stat().st_size < 4 * n + 4e5  # without the zeros that it was traced with
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4), size=(64, 128), mode="bilinear") * 2 - 1
    assert 0 < (made_by(small, x) - made_by(full, x)).abs().max() * 127.5 < levels


@pytest.mark.long
def test_weights_of_8_bits_are_rounded_in_each_channel_by_itself(tmp_path):
    """A scale for all channels together would leave nothing of one whose weights are small."""
    gen = Generator(3, 3, 16, 64).eval()
    gen.encoder[3][1].weight.data[5] *= 1e-3
    export(gen, tmp_path / "gen.onnx", int8=True)
    kept = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / "gen.onnx").graph.initializer}
    exact = gen.encoder[3][1].weight.detach().numpy()
    small = kept["encoder.3.1.parametrizations.weight.original"]
    most = np.abs(exact).max(axis=(1, 2, 3), keepdims=True)
    restored = small * kept["encoder.3.1.parametrizations.weight.0.scale"]
    assert small.dtype == np.int8
    assert (np.abs(restored - exact) <= most / 253).all() and kept["encoder.0.weight"].dtype == np.float32


def test_a_weight_too_large_for_fp16_is_a_sentence_and_no_infinity(gen, tmp_path):
    large = copy.deepcopy(gen)
    large.decoder[0][1].weight.data[0] = 1e5
    with pytest.raises(UserError, match="too large for fp16"):
        export(large, tmp_path / "gen.pt2", half=True)
    assert not any(tmp_path.iterdir())


@pytest.mark.long
@both
def test_an_export_tells_what_another_program_must_know(gen, tmp_path, name):
    """The tracer's own names of free sizes, s77 and 64*s30, mean nothing to who must set them."""
    gen = copy.deepcopy(gen)
    gen.trained = Trained(3, 3, Geometry(load_size=72), "BtoA", range_a=(500.0, 4000.0), known=Known())
    (tmp_path / temporary_name()).touch()  # of a process that was killed
    export(gen, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    wanted = {"direction": "BtoA", "in_channels": 3, "load_size": 72, "multiple": 64}
    if name == "gen.onnx":
        found = onnxruntime.InferenceSession(tmp_path / name).get_modelmeta().custom_metadata_map
        model = onnx.load(tmp_path / name)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        for value in (model.graph.input[0], model.graph.output[0], inferred.graph.output[0]):
            assert [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] == [
                "batch", 3, "height", "width"]
    else:
        found = dict.fromkeys((*wanted, "known"), "")
        torch.export.load(tmp_path / name, extra_files=found)
    assert {key: json.loads(value) for key, value in found.items() if value}.items() >= wanted.items()
    assert not found.get("known")


@pytest.mark.long
@both
def test_an_export_onto_a_full_disk_is_a_sentence_and_leaves_the_old_file(gen, disk, tmp_path, name):
    """torch's writer of archives aborted the process, with a C++ trace."""
    folder = disk(tmp_path / "full", 65536)
    (folder / name).write_bytes(b"whole")
    with pytest.raises(OSError, match=f"No space left on device: '{folder / name}'"):
        export(gen, folder / name)
    assert [each.read_bytes() for each in folder.iterdir()] == [b"whole"]


@pytest.mark.parametrize(("name", "options", "told"), [
    *(("gen.pt2", dict(size=size), "size must be two multiples of 64 from 64 to 4096")
      for size in ((64, 100), (0, 64), (-64, 64), (64, 64 * 65))),
    ("gen.txt", {}, "an export ends in .onnx, .pt2 or .tflite, not .txt"),
    ("gen.onnx", dict(half=True, int8=True), "--half or --int8, not both"),
    ("gen.pt2", dict(half=True, int8=True), "--half or --int8, not both"),
    ("gen.tflite", dict(half=True), "is for .onnx and .pt2: what a .tflite computes with"),
    ("gen.tflite", dict(int8=True), "is for .onnx and .pt2: what a .tflite computes with"),
    ("gen.tflite", dict(litert=None), "to .tflite need litert-torch.*: pip install litert-torch"),
    ("itself.onnx", {}, "would overwrite the checkpoint itself"), ("folder.pt2", {}, "Is a directory"),
    ("file/gen.onnx", {}, "File exists|Not a directory")])
def test_a_mistake_is_a_sentence_and_writes_nothing(gen, tmp_path, monkeypatch, name, options, told):
    monkeypatch.setitem(sys.modules, "litert_torch", options.get("litert", sys))
    (tmp_path / "folder.pt2").mkdir()
    (tmp_path / "file").write_bytes(b"weights")
    (tmp_path / "itself.onnx").symlink_to("file")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((UserError, OSError), match=told):
        export(gen, tmp_path / name, checkpoint=tmp_path / "file",
               **{key: value for key, value in options.items() if key != "litert"})
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "file").read_bytes() == b"weights"


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("litert_torch"), reason="needs litert-torch, which brings JAX")
def test_a_tflite_gives_the_same_picture(gen, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    export(gen, tmp_path / "gen.tflite")
    interpreter = Interpreter(str(tmp_path / "gen.tflite"))
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    interpreter.set_tensor(given["index"], x.numpy())
    interpreter.invoke()
    torch.testing.assert_close(torch.from_numpy(interpreter.get_tensor(made["index"])), y_fake(gen, x), rtol=0,
                               atol=1e-4)
