"""What a generator's file tells, and the Translator, which decides how a network runs and disturbs nobody."""

import copy
import math
import pickle
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from conftest import (
    LARGER,
    files_up_to,
    lively_generator,
    save,
    settings,
    trained_by,
    translated,
    write_generator,
    write_pair,
    write_sides,
)
from PIL import Image
from test_published import published as published  # a fixture

from evaluate import Evaluate, evaluate, load_pairs
from inference.load import load_generator
from inference.trained import Trained
from inference.translate import Translator, translate
from pairs.geometry import Geometry, Sizes, size_range, usual_size
from runtime.checkpoint import VERSION
from utils import UserError


@pytest.fixture(scope="module")
def gen():
    return lively_generator()


def noise(width, height, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)


def state_of(gen):
    flags = ("per_image", "shared_mask")
    return [(name, module.training, *(getattr(module, flag, None) for flag in flags), type(module))
            for name, module in gen.named_modules()]


@pytest.mark.parametrize(("precision", "n"), [("fp32", 200), ("bf16", 30)])
@pytest.mark.long
def test_threads_get_what_one_thread_gets_and_nothing_is_left_behind(gen, precision, n):
    """Many calls by 4 threads, on several sizes, with and without dropout, some through Translators that they share."""
    draw = random.Random(0)
    shared = [Translator(gen, scale="native", precision=precision, dropout=dropout, norm=norm, seed=3)
              for dropout in (True, False) for norm in ("image", "running")]
    calls = []
    for number in range(n):
        picture = noise(draw.choice([64, 65, 128]), draw.choice([64, 100]), number)
        options = dict(dropout=draw.random() < 0.5, seed=draw.randrange(3), scale="native", precision=precision)
        calls.append((draw.choice([None, *shared]), picture, options))

    def work(call):
        translator, picture, options = call
        return translator.picture(picture) if translator else translate(gen, picture, **options)

    before, random_state, weights = state_of(gen), torch.get_rng_state(), gen.state_dict()
    weights = {name: value.clone() for name, value in weights.items()}
    alone = [work(call) for call in calls]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, calls))
    assert all(map(np.array_equal, alone, together))
    assert len({result.tobytes() for result in alone}) > n / 2  # not all the same picture
    assert state_of(gen) == before and torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, weights[name]) for name, value in gen.state_dict().items())


def test_weights_in_another_type_are_told_with_the_way_back(gen):
    with pytest.raises(UserError, match=r"weights are torch.float16: call gen.float\(\) first"):
        translate(copy.deepcopy(gen).half(), noise(64, 64))


def test_a_translator_goes_to_another_process(gen):
    translator = Translator(gen, precision="bf16")
    sent = pickle.loads(pickle.dumps(translator))
    assert np.array_equal(sent.picture(noise(64, 64)), translator.picture(noise(64, 64)))


def test_the_weights_are_there_once(gen):
    """In fp32 those of the generator; in bf16 those of convolutions once more, at half the size."""
    translator = Translator(gen, precision="bf16")
    for name, parameter in translator.exact.named_parameters():
        assert parameter is gen.get_parameter(name)
    for name, parameter in translator.fast.named_parameters():
        cast = parameter.dim() == 4 or name == "output.1.bias"
        assert (parameter.dtype == torch.bfloat16) == cast and (parameter is gen.get_parameter(name)) != cast
    plain = Translator(gen, precision="fp32")
    assert plain.fast is plain.exact and translator.fast is not translator.exact


@pytest.mark.parametrize("norm", ["image", "running"])
def test_a_seed_gives_the_pictures_that_it_gave_in_validation(gen, norm):
    """Masks are drawn in the order of the layers, from the seed alone: as torch's own dropout draws them on a CPU."""
    pixels = torch.from_numpy(noise(128, 64).transpose(2, 0, 1).copy())[None]
    made = Translator(gen, norm=norm, seed=7, precision="fp32").tensor(pixels)
    with torch.random.fork_rng(), torch.no_grad(), gen.test_time(norm):
        torch.manual_seed(7)
        wanted = gen(pixels / 127.5 - 1)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)
    assert (made - Translator(gen, norm=norm, seed=8, precision="fp32").tensor(pixels)).abs().max() > 0.1


@pytest.mark.parametrize(("kind", "dtype", "fast"), [
    ("uint8", torch.uint8, True), ("uint8", torch.float32, False), ("uint16", torch.uint8, False),
    ("float32", torch.uint8, False), ("uint16", torch.float32, False)])
def test_only_8_bits_to_8_bits_are_translated_in_few_digits(gen, kind, dtype, fast):
    trained = replace(Trained.of_network(gen), kind=kind)
    x = torch.from_numpy(noise(64, 64).transpose(2, 0, 1).copy())[None]
    x = x if dtype == torch.uint8 else x / 255
    made, exact = (Translator(gen, trained, precision=precision).tensor(x) for precision in ("bf16", "fp32"))
    assert torch.equal(made, exact) != fast


def test_a_file_from_before_versions_tells_all_that_it_knows(gen, tmp_path):
    """The words and keys of commit 16235ef."""
    told = dict(direction="BtoA", resize="aspect", load_size=72, interpolation="bicubic", label_side="A",
                range_a=[0.0, 5.0], range_b=None, n_labels=0, seed=9, generator="unet", dropout_blocks="paper")
    trained = load_generator(write_generator(tmp_path / "gen.pth.tar", gen, told, usual_size=(120, 80), kind="float32",
                                        inputs=1, held_out=["1"], colours=[[1, 2, 3, 0.5]])).trained
    assert trained == Trained(  # but for held_out, which knows names alone
        3, 3, Geometry("aspect", 72, 64, 0, "bicubic"), direction="BtoA", range_a=(0.0, 5.0), label_side="A",
        kind="float32", sizes=Sizes((120, 80), (80, 80), (1.5, 1.5)), epoch=1, colours=((1, 2, 3, 0.5),), seed=9)
    assert trained.y_is_label and not trained.x_is_label and trained.y.limits == (0.0, 5.0)


def test_a_file_that_tells_no_direction_has_no_sides(gen, tmp_path):
    """Label maps on a side that nobody knows are none of the network's: "None"[0] was right by accident."""
    trained = load_generator(write_generator(tmp_path / "gen.pth.tar", gen, dict(label_side="none"))).trained
    assert (trained.direction, trained.input_side, trained.known, trained.sizes) == (None, None, None, None)
    for side in ("A", "B", "none"):
        other = replace(trained, label_side=side)
        assert not other.x_is_label and not other.y_is_label
    assert replace(trained, label_side="both").y_is_label


@pytest.mark.parametrize(("told", "saved", "why"), [
    *((told, {}, ".*a newer version of this program wrote it") for told in (
        dict(resize="letterbox"), dict(interpolation="lanczos"), dict(label_side="C"), dict(direction="AtoC"),
        dict(direction=None), dict(generator="transformer"), dict(dropout_blocks="all"), dict(resize=["stretch"]))),
    *(({}, saved, ".*a newer version of this program wrote it") for saved in (
        dict(kind="int64"), dict(version=VERSION + 1))),
    *((told, {}, "") for told in (dict(range_a=[5]), dict(range_b=[5, 1]), dict(range_a=[0, math.inf]),
                                  dict(range_a="x"), dict(n_labels=2))),
    *(({}, saved, "") for saved in (dict(kind="text"), dict(kind=[1]), dict(inputs="many"))),
    *(({}, dict(usual_size=size), "") for size in ((0, 90), (-3, 4), (1,), ("a", 3), None, (math.nan, 1))),
    *(({}, dict(usual_size=(4, 4), size_range=ranges), "")
      for ranges in ([0, 1, 1, 1], [2, 1, 1, 1], [1, 1, 1], ["a"] * 4, [1, 1, math.nan, 1]))])
def test_a_file_of_a_newer_version_or_that_tells_what_cannot_be_is_refused(gen, tmp_path, told, saved, why):
    with pytest.raises(ValueError, match=f"odd.pth.tar holds no generator {why}"):
        load_generator(write_generator(tmp_path / "odd.pth.tar", gen, told, **saved))


@pytest.mark.parametrize(("training", "size", "wanted"), [
    ([(150, 90)], (150, 90), (64, 64)), ([(150, 90)], (300, 180), (128, 128)), ([(150, 90)], (75, 45), (32, 32)),
    ([(150, 90)], (300, 90), (128, 64)), ([(150, 90)], (150, 180), (64, 128)),  # one aspect: more to see
    ([(128, 64), (64, 128)], (128, 64), (64, 64)), ([(128, 64), (64, 128)], (64, 128), (64, 64)),
    ([(128, 64), (64, 128)], (128, 256), (128, 128)), ([(128, 64), (64, 128)], (100, 100), (100, 100)),
    ([(128, 64), (64, 128)], (256, 64), (128, 64)),  # wider than any
    ([(60, 40), (600, 400)], (300, 200), (64, 64)), ([(60, 40), (600, 400)], (1200, 800), (128, 128))])
def test_an_image_like_those_of_training_is_shown_as_training_showed_it(training, size, wanted):
    """With resize stretch; and what is larger than any of its kind has more to show."""
    counted = Counter(training)
    sizes = Sizes.of_file(usual_size(counted), size_range(counted))
    assert Geometry("stretch", 72, 64).trained(size, sizes) == wanted


def test_one_image_in_a_hundred_of_another_size_changes_nothing():
    assert size_range(Counter({(150, 90): 300, (9000, 10): 2})) == (90, 90, 150 / 90, 150 / 90)


@pytest.mark.long
def test_portraits_among_landscapes_are_translated_as_they_were_validated(tmp_path):
    """The score of the files that predict.py writes is that of --scale crop, which is what validation showed."""
    root = write_sides(tmp_path / "data", {f"{side}.png": lambda i, seed=seed: noise(
        *((12, 6), (6, 12))[i % 2], i + seed).repeat(8, axis=0).repeat(8, axis=1)
        for side, seed in (("A", 0), ("B", 9))}, 4, 4)
    gen = trained_by(settings(root, tmp_path / "run", **{**LARGER, "n_epochs": 1}))
    assert Translator(gen).network_size((48, 96)) == (64, 64)
    opts = Evaluate(tmp_path / "run" / "gen.pth.tar", root, full_size=True, num_workers=0, device="cpu")
    trained, crop, native = (evaluate(gen, *load_pairs(opts, gen), replace(opts, scale=scale))["l1_of_each"]
                             for scale in ("trained", "crop", "native"))
    assert trained == crop != native


@pytest.mark.parametrize("layout", ["{side}/{name}", "val/{side}/{name}", "val_{side}/{name}", "{side}/val/{name}",
                                    "val/{name}_{side}"])
@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_of_a_folder_of_pairs_the_inputs_are_translated_and_the_targets_shown(gen, tmp_path, layout, direction):
    checkpoint = write_generator(tmp_path / "gen.pth.tar", gen, dict(direction=direction))
    ours, theirs = direction[0], direction[-1]
    sides = {}
    for side in "AB":
        for name in ("1", "2"):
            sides[side, name] = noise(64, 64, ord(side) + int(name))
            save(tmp_path / "pairs" / (layout.format(side=side, name=name) + ".png"), sides[side, name])
    status, out, err = translated(checkpoint, tmp_path / "pairs", tmp_path / "out", "--compare")
    assert status == 0 and "2 images in" in out, err
    assert f"pairs: 2 inputs (of side {ours}, or of neither) are translated, 2 other images are not, such as " in out
    written = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.png"))
    assert [path.as_posix() for path in written] == [layout.format(side=ours, name=name) + ".png" for name in "12"]
    for path in written:
        sheet = np.asarray(Image.open(tmp_path / "out" / path))
        assert sheet.shape == (64, 192, 3)
        assert np.array_equal(sheet[:, :64], sides[ours, path.stem[0]])
        assert np.array_equal(sheet[:, 128:], sides[theirs, path.stem[0]])


def test_without_a_direction_a_folder_of_pairs_is_a_question_and_one_side_alone_is_none(gen, tmp_path):
    checkpoint = write_generator(tmp_path / "gen.pth.tar", gen)
    for side in "AB":
        save(tmp_path / "in" / side / "1.png", noise(64, 64))
    status, _, err = translated(checkpoint, tmp_path / "in", tmp_path / "out")
    assert status == 2 and "does not tell which one" in err and err.count("\n") == 1, err
    assert translated(checkpoint, tmp_path / "in" / "B", tmp_path / "out")[0] == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1.png"]
    (tmp_path / "in" / "B").rename(tmp_path / "elsewhere")  # a folder called A alone is one like any other
    write_generator(checkpoint, gen, dict(direction="BtoA"))
    assert translated(checkpoint, tmp_path / "in", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "A" / "1.png").exists()


def test_a_target_of_another_size_is_a_failure_with_its_name(gen, tmp_path):
    checkpoint = write_generator(tmp_path / "gen.pth.tar", gen, dict(direction="AtoB"))
    for side, height in (("A", 64), ("B", 65)):
        save(tmp_path / "in" / side / "1.png", noise(64, height))
    places = checkpoint, tmp_path / "in", tmp_path / "out"
    status, _, err = translated(*places, "--compare")
    assert status == 1 and "B/1.png is no target of" in err and err.count("\n") == 1, err
    assert translated(*places)[0] == 0


def test_inputs_of_the_authors_networks_are_resized_as_their_program_does(published, tmp_path):
    """By Pillow's bicubic: on checkerboards, the average of areas is a plain gray."""
    checkpoint, source = tmp_path / "latest_net_G.pth", noise(300, 200)
    torch.save(published().state_dict(), checkpoint)
    write_pair(tmp_path / "data" / "val" / "1.png", left=source, right=source)
    gen = load_generator(checkpoint)
    opts = Evaluate(checkpoint, tmp_path / "data", direction="AtoB", num_workers=0, device="cpu")
    scored = [(side.permute(1, 2, 0).numpy() + 1) * 127.5 for side in load_pairs(opts, gen)[0][0]]
    wanted = np.asarray(Image.fromarray(source).resize((128, 128), Image.Resampling.BICUBIC))
    for made in (Translator(gen).to_scale(source), *scored):
        difference = np.abs(made.astype(float) - wanted)
        assert difference.max() < 2.1 and difference.mean() < 0.05


ENDINGS = ["png", "jpg", "webp", "bmp", "tif", "npy"]


@pytest.fixture(scope="module")
def deep(gen, tmp_path_factory):
    """A generator and an input for each kind of number that is written: 8 and 16 bits."""
    folder = tmp_path_factory.mktemp("deep")
    write_generator(folder / "gen.pth.tar", gen)
    cv2.imwrite(str(folder / "8.png"), noise(64, 64))
    cv2.imwrite(str(folder / "16.png"), noise(64, 64, dtype=np.uint16))
    return folder


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_output_that_does_not_fit_is_a_failure_and_the_one_before_stays(deep, tmp_path, ending, bits):
    output = tmp_path / f"out.{ending}"
    places = deep / "gen.pth.tar", deep / f"{bits}.png", output
    assert translated(*places)[0] == 0
    whole = output.read_bytes()
    output.write_bytes(b"good")
    for part in (1, len(whole) // 2, len(whole) - 1):
        with files_up_to(part):
            status, _, err = translated(*places)
        assert status == 1 and f"out.{ending} cannot be written" in err and err.count("\n") == 1, (part, err)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"good"]


def test_what_a_killed_process_left_in_the_output_folder_goes(deep, tmp_path):
    for name in ("1.png", "sub/2.png"):
        left = save(tmp_path / "in" / name, noise(64, 64)).parent
        left = tmp_path / "out" / left.relative_to(tmp_path / "in") / ".pix2pix-0123456789abcdef.tmp"
        left.parent.mkdir()
        left.write_bytes(b"half")
    status, _, err = translated(deep / "gen.pth.tar", tmp_path / "in", tmp_path / "out")
    assert status == 0, err
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*"))
    assert found == ["1.png", "sub", "sub/2.png"]
