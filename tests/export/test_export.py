"""Exported files against the pairs that they are of: other runtimes, other numbers of data, other processes."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

import pyro_vae
from pyro_vae import guides, models
from pyro_vae.errors import InputError
from pyro_vae.export import export_pair, write
from pyro_vae.programs.program import as_programs

NEAR = {"rtol": 1e-6, "atol": 1e-6}


def digits(count=20):
    return (torch.rand(count, 1, 8, 8) > 0.5).float()


def run(file, *inputs):
    """What a file gives of arrays in the order of its inputs, for so many data as there are."""
    if file.suffix == ".pt2":
        return [value.detach() for value in torch.export.load(file).module()(*inputs)]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    feed = {of.name: value.numpy() for of, value in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.as_tensor(value) for value in session.run(None, feed)]


def told(exported, part):
    return json.loads((exported.folder / "metadata.json").read_text())["parts"][part]


def names(exported, part):
    return [[each["name"] for each in told(exported, part)[kind]] for kind in ("inputs", "outputs")]


@pytest.mark.parametrize("to", ["torch.export", "onnx"])
def test_a_vae(tmp_path, to):
    model = models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    guide = guides.GaussianGuide(model, hidden_dims=(16,))
    x, z = digits(7), torch.randn(9, 2)
    exported = export_pair(model, guide, digits(), tmp_path, to=to)
    assert exported.left_out == {} and {*exported.files} == {"encoder", "decoder", "sampler"}
    right = pyro_vae.posterior_moments(model, guide, x)
    for value, name in zip(run(exported.files["encoder"], x), ("z.mean", "z.scale"), strict=True):
        torch.testing.assert_close(value, right[name], **NEAR)
    mean = pyro_vae.decode(model, {"z": z})
    for part in ("decoder", "sampler"):  # the prior is standard normal: its noise is z
        torch.testing.assert_close(run(exported.files[part], z)[0], mean, **NEAR)
        assert told(exported, part)["sha256"] == hashlib.sha256(exported.files[part].read_bytes()).hexdigest()
    assert names(exported, "sampler") == [["noise_z"], ["x.mean"]]
    assert told(exported, "sampler")["inputs"][0] == {
        "name": "noise_z", "shape": ["batch", 2], "dtype": "float32", "role": "noise", "kind": "standard normal",
        "site": "z",
    }  # fmt: skip
    assert max(v for of in exported.differences.values() for v in of.values()) <= 1e-6
    torch.testing.assert_close(run(exported.files["decoder"], z[:1])[0], mean[:1], **NEAR)  # one datum is a number, too


def test_a_file_needs_no_package(tmp_path):
    model = models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    exported = export_pair(model, guides.GaussianGuide(model, hidden_dims=(4,)), digits(), tmp_path, parts=["decoder"])
    code = (
        "import sys, torch, numpy; p = torch.export.load(sys.argv[1]).module(); numpy.save(sys.argv[2],"
        "p(torch.full((3, 2), 0.3))[0].detach().numpy()); assert not {'pyro', 'pyro_vae'} & set(sys.modules)"
    )
    arguments = [sys.executable, "-W", "ignore", "-c", code, str(exported.files["decoder"]), str(tmp_path / "x.npy")]
    subprocess.run(arguments, check=True, cwd=tmp_path)
    right = pyro_vae.decode(model, {"z": torch.full((3, 2), 0.3)})
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), right.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("to", ["torch.export", pytest.param("onnx", marks=pytest.mark.slow)])
def test_convolutions_and_a_class(tmp_path, to):
    model = models.ConditionalVAE(
        (1, 8, 8), pyro_vae.networks.OneHot(3), latent_dim=2, decoder="conv", hidden_dims=(4, 3)
    )
    guide = guides.ConditionalGuide(model, encoder="conv", hidden_dims=(3, 4))
    x, y, z = digits(4), torch.tensor([2, 0, 1, 1]), torch.randn(4, 2)
    exported = export_pair(model, guide, {"x": digits(), "y": torch.arange(20) % 3}, tmp_path, to=to)
    assert names(exported, "encoder") == [["x", "y"], ["z.mean", "z.scale"]]
    assert told(exported, "decoder")["inputs"][1]["what"] == "class labels from 0 to 2"
    right = pyro_vae.posterior_moments(model, guide, {"x": x, "y": y})
    for value, name in zip(run(exported.files["encoder"], x, y), ("z.mean", "z.scale"), strict=True):
        torch.testing.assert_close(value, right[name], **NEAR)
    mean = pyro_vae.decode(model, {"z": z}, batch={"y": y})
    torch.testing.assert_close(run(exported.files["decoder"], z, y)[0], mean, **NEAR)


@pytest.mark.parametrize("to", ["torch.export", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_hierarchy(tmp_path, to):
    """A ladder's sites, given those before at their means; the decoder takes what x depends on, and nothing else."""
    model = models.HierarchicalVAE((1, 8, 8), [4, 2], [6, 6])
    guide = guides.LadderGuide(model, [6, 6])
    exported = export_pair(model, guide, digits(), tmp_path, to=to)
    x, noise = digits(6), [torch.randn(6, 2), torch.randn(6, 4)]
    of_model, guide = as_programs(model, guide)
    with torch.no_grad():
        nodes = pyro.poutine.trace(guide).get_trace(x=x).nodes
        top = nodes["z2"]["fn"]
        at_means = pyro.poutine.trace(pyro.poutine.condition(guide, {"z2": top.mean})).get_trace(x=x).nodes["z1"]["fn"]
        drawn = pyro.poutine.condition(of_model, {"z2": noise[0]})
        below = pyro.poutine.trace(drawn).get_trace(num_samples=6).nodes["z1"]["fn"].base_dist
    found = dict(zip(names(exported, "encoder")[1], run(exported.files["encoder"], x), strict=True))
    for name, q in (("z2", top), ("z1", at_means)):
        torch.testing.assert_close(found[f"{name}.mean"], q.mean, **NEAR)
        torch.testing.assert_close(found[f"{name}.scale"], q.variance.sqrt(), **NEAR)
    assert names(exported, "decoder") == [["z1"], ["x.mean"]]
    z1 = below.loc + below.scale * noise[1]
    mean = pyro_vae.decode(model, {"z1": z1, "z2": noise[0]})
    torch.testing.assert_close(run(exported.files["sampler"], *noise)[0], mean, **NEAR)
    torch.testing.assert_close(run(exported.files["decoder"], z1)[0], mean, **NEAR)


@pytest.mark.parametrize("to", ["torch.export", pytest.param("onnx", marks=pytest.mark.slow)])
def test_codes(tmp_path, to):
    """So many data that the quantizer takes their vectors in several pieces."""
    likelihood = pyro_vae.likelihoods.Bernoulli()
    model = models.VQVAE((1, 16, 16), num_codes=8, code_dim=4, channels=8, likelihood=likelihood)
    guide = guides.VQGuide(model)
    x = (torch.rand(300, 1, 16, 16) > 0.5).float()
    exported = export_pair(model, guide, x[:20], tmp_path, to=to)
    codes = pyro_vae.encode(model, guide, x)["codes"]
    found = dict(zip(names(exported, "encoder")[1], run(exported.files["encoder"], x), strict=True))
    assert found["codes"].dtype == torch.int64 and (found["codes"] != codes).double().mean() < 1e-3
    assert names(exported, "decoder") == [["codes"], ["x.mean"]]
    assert told(exported, "decoder")["inputs"][0]["what"] == "integers from 0 to 7"
    mean = pyro_vae.decode(model, {"codes": codes[:5]})
    torch.testing.assert_close(run(exported.files["decoder"], codes[:5])[0], mean, **NEAR)
    uniform = (codes[:5].float() + 0.5) / 8  # the prior is uniform: codes are where the numbers are
    torch.testing.assert_close(run(exported.files["sampler"], uniform)[0], mean, **NEAR)


def two_functions():
    """A model and a guide as two functions, with a parameter of Pyro's, and a class that is drawn."""
    encoder, decoder = nn.Linear(5, 4), nn.Linear(4, 5)

    def model(x=None, num_samples=1):
        pyro.module("decoder", decoder)
        spread = pyro.param("spread", torch.tensor([0.5, 2.0]), constraint=dist.constraints.positive)
        with pyro.plate("data", num_samples if x is None else len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
            z = pyro.sample("z", dist.Laplace(torch.zeros(2), spread).to_event(1))
            both = torch.cat([z, torch.stack([k.float(), k.float().square()], -1)], -1)
            return pyro.sample("x", dist.Normal(decoder(both), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc, raw = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=x[:, :3]))
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return model, guide, encoder, decoder


def test_two_functions(tmp_path):
    model, guide, encoder, decoder = two_functions()
    exported = export_pair(model, guide, torch.randn(20, 5), tmp_path)
    x, z, k, u = torch.randn(6, 5), torch.randn(6, 2), torch.tensor([0, 1, 2, 2, 1, 0]), torch.rand(6, 2)
    with torch.no_grad():
        loc, raw = encoder(x).chunk(2, -1)
        right = decoder(torch.cat([z, torch.stack([k, k**2], -1)], -1))
        found = dict(zip(names(exported, "encoder")[1], run(exported.files["encoder"], x), strict=True))
        assert torch.equal(found["k"], x[:, :3].argmax(-1))
        torch.testing.assert_close(found["z.mean"], loc, **NEAR)
        torch.testing.assert_close(found["z.scale"], raw.exp(), **NEAR)
        order = names(exported, "decoder")[0]
        torch.testing.assert_close(
            run(exported.files["decoder"], *({"k": k, "z": z}[n] for n in order))[0], right, **NEAR
        )
        assert names(exported, "sampler")[0] == ["noise_k", "noise_z"]
        level = torch.tensor([[0.1], [0.19], [0.21], [0.69], [0.71], [0.99]])  # of the classes' cumulative distribution
        k, laplace = torch.tensor([0, 0, 1, 1, 2, 2]), dist.Laplace(torch.zeros(2), torch.tensor([0.5, 2.0])).icdf(u)
        right = decoder(torch.cat([laplace, torch.stack([k, k**2], -1)], -1))
        noise = {each["name"]: each["shape"] for each in told(exported, "sampler")["inputs"]}
        assert noise == {"noise_k": ["batch", *noise["noise_k"][1:]], "noise_z": ["batch", 2]}
        level = level.reshape(6, *noise["noise_k"][1:])
        torch.testing.assert_close(run(exported.files["sampler"], level, u)[0], right, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_exported_is_said_and_the_rest_is_written(tmp_path, caplog):
    decoder = nn.Linear(2, 5)

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.StudentT(5.0, torch.zeros(2), 1.0).to_event(1))
            if z.sum() > 1e9:
                z = z + 1
            return pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    exported = export_pair(model, guide, torch.randn(20, 5), tmp_path)
    assert {*exported.files} == {"encoder"} and {*exported.left_out} == {"decoder", "sampler"}
    assert "looks at a tensor's value" in exported.left_out["decoder"]
    assert "site 'z'" in exported.left_out["sampler"] and "gamma" in exported.left_out["sampler"]
    assert json.loads((tmp_path / "metadata.json").read_text())["left_out"] == exported.left_out
    assert "sampler: not exported" in caplog.text and not (tmp_path / "decoder.pt2").exists()


@pytest.mark.parametrize(
    "shift, rounding, said",
    [
        (1e-3, 0.0, r"0\.001"),
        (3e-6, 0.0, r"(2\.[6-9]|3(\.[0-4])?)e-06"),
        (5e-6, 2e-6, r"(4\.[6-9]|5(\.[0-4])?)e-06"),
        (2e-5, 1.0, "2e-05"),
        (5e-7, 0.0, None),
        (3e-6, 2e-6, None),
    ],
)
def test_numbers_that_differ_are_not_written(tmp_path, monkeypatch, shift, rounding, said):
    """By more than 1e-6, or twice the pair's own rounding, one datum at a time; never by more than 1e-5."""
    model = models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    guide = guides.GaussianGuide(model, hidden_dims=(4,))
    file, part = write._torch_file, write.Part.__call__

    def rounded(self, **rows):
        return [value + rounding * (len(value) == 1) for value in part(self, **rows)]

    monkeypatch.setattr(write, "_torch_file", lambda *a: [value + shift for value in file(*a)])
    monkeypatch.setattr(write.Part, "__call__", rounded)
    if said is not None:
        with pytest.raises(InputError, match=rf"'x\.mean' of the exported decoder differs by up to {said}"):
            export_pair(model, guide, digits(), tmp_path, parts=["decoder"])
        assert list(tmp_path.iterdir()) == []
    else:
        found = export_pair(model, guide, digits(), tmp_path, parts=["decoder"]).differences["decoder"]["x.mean"]
        assert abs(found - shift) < 3e-7


def test_differences_are_relative_to_the_largest_number():
    right = torch.tensor([200.0, 1e-3])
    assert write._difference(right + torch.tensor([0.0, 1e-3]), right) == pytest.approx(5e-6, rel=1e-3)


def test_what_is_refused(tmp_path, monkeypatch):
    model = models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    guide = guides.GaussianGuide(model, hidden_dims=(4,))
    (tmp_path / "decoder.pt2").write_text("mine")
    for error, options in {
        "is there already": {},
        "unknown format": {"to": "tflite"},
        "unknown part": {"parts": ["latents"]},
        "tolerance": {"tolerance": 0.0},
    }.items():
        with pytest.raises(InputError, match=error):
            export_pair(model, guide, digits(), tmp_path, **options)
    assert (tmp_path / "decoder.pt2").read_text() == "mine"
    monkeypatch.setattr(write, "NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(InputError, match=r"needs no_such_package: pip install 'pyro-vae\[export\]'"):
        export_pair(model, guide, digits(), tmp_path, to="onnx")


def test_the_global_random_state_is_left_alone(tmp_path):
    model = models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    before = torch.get_rng_state()
    export_pair(
        model, guides.GaussianGuide(model, hidden_dims=(4,)), torch.zeros(9, 1, 8, 8), tmp_path, parts=["sampler"]
    )
    drawn = torch.rand(3)
    torch.set_rng_state(before)
    guides.GaussianGuide(model, hidden_dims=(4,))
    assert torch.equal(torch.rand(3), drawn)
