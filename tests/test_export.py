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

from generator import Generator
from hd.networks import GlobalGenerator, LocalEnhancer
from inference.export import Cropped, crop_instead_of_padding, export
from utils import UserError


@pytest.fixture(scope="module")
def gen():
    torch.manual_seed(0)
    return Generator(3, 3, 4, 64).eval()


def y_fake(gen, x):
    with torch.no_grad(), gen.test_time(dropout=False):
        return gen(x)


def dims(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.slow
def test_free_sizes_have_the_names_that_people_know(gen, tmp_path):
    """The tracer's own names, s77 and 64*s30, mean nothing to who must set them."""
    export(gen, tmp_path / "gen.onnx")
    graph = onnx.load(tmp_path / "gen.onnx").graph
    for value in (graph.input[0], graph.output[0]):
        assert dims(value) == ["batch", 3, "height", "width"]
    inferred = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "gen.onnx"), strict_mode=True, data_prop=True)
    assert dims(inferred.graph.output[0]) == ["batch", 3, "height", "width"]


@pytest.mark.slow
def test_a_fixed_size_is_in_the_file_and_gives_the_same_picture(gen, tmp_path):
    for name in ("gen.onnx", "gen.pt2"):
        assert export(gen, tmp_path / name, size=(64, 128)).endswith("for one image of 128×64 at a time")
    session = onnxruntime.InferenceSession(tmp_path / "gen.onnx")
    assert session.get_inputs()[0].shape == session.get_outputs()[0].shape == [1, 3, 64, 128]
    assert json.loads(session.get_modelmeta().custom_metadata_map["size"]) == [128, 64]
    x = torch.rand(1, 3, 64, 128) * 2 - 1
    lowered = torch.export.load(tmp_path / "gen.pt2").run_decompositions()  # what ExecuTorch and coremltools begin with
    for made in (torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), lowered.module()(x)):
        torch.testing.assert_close(made, y_fake(gen, x), rtol=0, atol=1e-4)
    sizes = {size for node in lowered.graph.nodes if "val" in node.meta and isinstance(node.meta["val"], torch.Tensor)
             for size in node.meta["val"].shape}
    assert all(type(size) is int for size in sizes)  # none that a converter would have to derive


@pytest.mark.long
def test_a_pt2_takes_one_image_and_one_multiple_whatever_the_layout_of_the_weights(gen, tmp_path):
    """Training leaves them channels-last, of which the tracer would ask for larger sizes."""
    gen = copy.deepcopy(gen).to(memory_format=torch.channels_last)
    export(gen, tmp_path / "gen.pt2")
    module = torch.export.load(tmp_path / "gen.pt2").module()
    for shape in ((1, 3, 64, 64), (1, 3, 128, 64), (3, 3, 64, 192)):
        x = torch.rand(shape) * 2 - 1
        torch.testing.assert_close(module(x), y_fake(gen, x), rtol=0, atol=1e-4)


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


@pytest.mark.long
def test_a_pt2_holds_little_but_the_weights(tmp_path):
    """It held the zeros that it was traced with."""
    gen = Generator(3, 3, 4, 256).eval()
    export(gen, tmp_path / "gen.pt2")
    size = sum(4 * p.numel() for p in gen.parameters())
    assert size < (tmp_path / "gen.pt2").stat().st_size < size + 2e6


@pytest.mark.long
def test_weights_of_8_bits_are_a_quarter_of_the_file_and_round_each_channel_by_itself(gen, tmp_path):
    """A scale for all channels together would leave nothing of one whose weights are small."""
    torch.manual_seed(0)
    gen = Generator(3, 3, 16, 64).eval()  # of smaller weights, the exporter keeps what they are computed to
    gen.encoder[3][1].weight.data[5] *= 1e-3
    for name, int8 in (("full", False), ("small", True)):
        export(gen, tmp_path / f"{name}.onnx", int8=int8)
    full, small = (tmp_path / f"{name}.onnx" for name in ("full", "small"))
    weights = sum(parameter.numel() for parameter in gen.parameters())
    assert small.stat().st_size < full.stat().st_size - 2.8 * weights
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4), size=(64, 128), mode="bilinear") * 2 - 1
    made, wanted = (onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})[0] for path in (small, full))
    assert 0 < np.abs(made - wanted).max() * 127.5 < 2

    kept = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(small).graph.initializer}
    exact = gen.encoder[3][1].weight.detach().numpy()
    small = kept["encoder.3.1.parametrizations.weight.original"]
    most = np.abs(exact).max(axis=(1, 2, 3), keepdims=True)
    restored = small * kept["encoder.3.1.parametrizations.weight.0.scale"]
    assert small.dtype == np.int8
    assert (np.abs(restored - exact) <= most / 253).all() and kept["encoder.0.weight"].dtype == np.float32


@pytest.mark.parametrize(("name", "options", "told"), [
    *(("gen.pt2", dict(size=size), "size must be two multiples of 64 from 64 to 4096")
      for size in ((64, 100), (0, 64), (-64, 64), (64, 64 * 65))),
    ("gen.txt", {}, "an export ends in .onnx, .pt2 or .tflite, not .txt"),
    ("gen.onnx", dict(half=True, int8=True), "--half or --int8, not both"),
    ("gen.pt2", dict(half=True, int8=True), "--half or --int8, not both")])
def test_a_size_that_the_network_does_not_take_and_8_bits_with_half_are_a_sentence(gen, tmp_path, name, options, told):
    with pytest.raises(UserError, match=told):
        export(gen, tmp_path / name, **options)
    assert not any(tmp_path.iterdir())


def test_an_export_never_takes_the_place_of_its_checkpoint(gen, tmp_path):
    path = tmp_path / "gen.onnx"
    path.write_bytes(b"weights")
    with pytest.raises(UserError, match="would overwrite the checkpoint itself"):
        export(gen, path, checkpoint=path)
    assert path.read_bytes() == b"weights"


def test_tflite_names_the_package_that_it_needs(gen, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(UserError, match="to .tflite need litert-torch.*: pip install litert-torch"):
        export(gen, tmp_path / "gen.tflite")
    monkeypatch.setitem(sys.modules, "litert_torch", sys)
    for kind in ("half", "int8"):
        with pytest.raises(UserError, match="is for .onnx and .pt2: what a .tflite computes with"):
            export(gen, tmp_path / "gen.tflite", **{kind: True})
    assert not any(tmp_path.iterdir())


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
