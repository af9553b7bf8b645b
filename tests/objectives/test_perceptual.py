"""The penalty on features: its value and gradient written by hand, and what it leaves alone."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import likelihoods
from pyro_vae.errors import InputError
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE, FeatureVAE
from pyro_vae.objectives import ELBO, Perceptual
from pyro_vae.programs.parameters import module_parameters
from pyro_vae.programs.program import as_programs
from pyro_vae.recording import Recording
from pyro_vae.training.compiled import Step

SHAPE = (1, 6, 6)


class Small(nn.Module):
    """Two layers with batch normalization, whose statistics must not move."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh())
        self.second = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x):
        h = self.first(x)
        return {"first": h, "second": self.second(h)}


def pair(likelihood=None):
    torch.manual_seed(3)
    model = VAE(SHAPE, 2, likelihood or likelihoods.Gaussian(0.5), hidden_dims=(8,))
    return model, GaussianGuide(model, hidden_dims=(8,)), torch.rand(5, *SHAPE)


def terms_of(objective, model, guide, x):
    with module_parameters(model, guide):
        return objective.terms(model, guide, x=x)


class Drawn(nn.Module):
    """A guide whose draws are the same at every call, with the gradient of their noise."""

    def __init__(self, guide, k):
        super().__init__()
        self.guide = guide
        noise = torch.randn(k, 5, 2, dtype=torch.float64)
        self.register_buffer("noise", noise if k > 1 else noise[0])

    def forward(self, x):
        q = pyro_vae.networks.diagonal_normal(self.guide.encoder(x), self.guide.min_scale)
        with pyro.plate("data", len(x), dim=-1):
            fn = dist.Normal(q.loc, q.scale).to_event(1)
            fn = dist.Independent(Fixed(q.loc, q.scale, self.noise), 1)
            return pyro.sample("z", fn)


class Fixed(dist.Normal):
    """A Gaussian that draws with given noise."""

    def __init__(self, loc, scale, noise):
        super().__init__(loc, scale, validate_args=False)
        self.noise = noise

    def expand(self, shape, _instance=None):
        return Fixed(self.loc.expand(shape), self.scale.expand(shape), self.noise)

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.noise


def by_hand(model, guide, x, features, weights, noise):
    """-ELBO and the penalties, with plain torch."""
    q = pyro_vae.networks.diagonal_normal(guide.encoder(x), guide.min_scale)
    z = q.loc + q.scale * noise  # (K, N, 2)
    mean = model.decoder(z)  # of a Gaussian likelihood
    log_p = torch.distributions.Normal(mean, 0.5).log_prob(x).flatten(-3).sum(-1).mean()
    kl = (0.5 * (q.loc.square() + q.scale.square() - 1) - q.scale.log()).sum(-1).mean()
    ours, theirs = features(x), features(mean.flatten(0, -4))
    penalties = {}
    for layer, weight in weights.items():
        each = theirs[layer].unflatten(0, mean.shape[:-3]) - ours[layer]
        penalties[layer] = weight * each.square().flatten(len(mean.shape) - 3).sum(-1).mean()
    return kl - log_p, penalties


@pytest.mark.parametrize("k", [1, 4])
def test_loss_metrics_and_gradient_are_those_written_by_hand(k):
    model, guide, x = pair()
    features, weights = Small().eval().double(), {"first": 0.3, "second": 0.7}
    model, guide, x = model.double(), guide.double(), x.double()
    drawn = Drawn(guide, k)
    terms = terms_of(Perceptual(features, weights, num_particles=k), model, drawn, x)
    minus_elbo, penalties = by_hand(model, guide, x, features, weights, drawn.noise)
    torch.testing.assert_close(terms.loss, minus_elbo + sum(penalties.values()))
    assert [*terms.named()] == [
        *("loss", "log_likelihood/x", "kl/z", "penalty/perceptual/first", "penalty/perceptual/second")
    ]
    for layer, value in penalties.items():
        torch.testing.assert_close(terms.penalty[f"perceptual/{layer}"], value.detach())
    parameters = [*model.parameters(), *guide.parameters()]
    ours = torch.autograd.grad(terms.loss, parameters)
    theirs = torch.autograd.grad(minus_elbo + sum(penalties.values()), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_its_gradient_is_that_of_finite_differences():
    model, guide, x = pair()
    model, guide, x = model.double(), guide.double(), x.double()
    objective, drawn = Perceptual(Small().double(), 2.0), Drawn(guide, 1)

    def loss():
        return objective.differentiable_loss(model, drawn, x=x)

    loss().backward()
    for parameter in (model.decoder.mlp.out.bias, guide.encoder.mlp.hidden[0].weight):
        direction = torch.randn_like(parameter)
        step, ends = 1e-5, []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
                ends.append(loss())
                parameter -= sign * step * direction
        torch.testing.assert_close(
            (parameter.grad * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-7
        )


def test_weights_are_nats_of_layers():
    model, guide, x = pair()
    drawn = Drawn(guide.double(), 1)
    model, x = model.double(), x.double()
    features = Small().double()
    plain = terms_of(ELBO(), model, drawn, x).loss.item()
    one = terms_of(Perceptual(features, 1.0), model, drawn, x)
    assert terms_of(Perceptual(features, 0.0), model, drawn, x).loss.item() == pytest.approx(plain)
    assert one.loss.item() == pytest.approx(plain + sum(v.item() for v in one.penalty.values()))
    first = terms_of(Perceptual(features, {"first": 3.0}), model, drawn, x)
    assert [*first.penalty] == ["perceptual/first"]
    assert first.penalty["perceptual/first"].item() == pytest.approx(3 * one.penalty["perceptual/first"].item())
    torch.testing.assert_close(first.log_likelihood["x"], one.log_likelihood["x"])  # log p(x | z) stays the pixels'


def test_training_and_validation_have_it_and_the_network_stays_bit_equal(tmp_path):
    model, guide, _ = pair()
    features = Small()
    before = copy.deepcopy(features.state_dict())
    x = torch.rand(60, *SHAPE)
    data = pyro_vae.data.Data(pyro_vae.data.Split({"x": x[:40]}), validation=pyro_vae.data.Split({"x": x[40:]}))
    objective = Perceptual(features, 1.0, num_particles=2)
    result = pyro_vae.fit(
        *(model, guide, data),
        objective=objective,
        epochs=40,
        batch_size=20,
        learning_rate=0.01,
        progress=False,
        device="cpu",
    )
    assert all(torch.equal(value, before[name]) for name, value in features.state_dict().items())
    assert not any(p.requires_grad for p in features.parameters()) and not features.training
    first, last = result.records[0], result.records[-1]
    for part in ("train", "validation"):
        assert last[f"{part}/penalty/perceptual/first"] < first[f"{part}/penalty/perceptual/first"]
    named = {name.removeprefix("validation/"): value for name, value in last.items() if name.startswith("validation/")}
    penalty = sum(value for name, value in named.items() if name.startswith("penalty/"))
    assert named["loss"] == pytest.approx(named["kl/z"] - named["log_likelihood/x"] + penalty, rel=1e-5)


def test_a_run_is_not_gone_on_with_by_another_network(tmp_path):
    """Frozen weights are in no checkpoint; what was trained with others is another experiment."""
    x, options = torch.rand(20, *SHAPE), {"out": tmp_path, "device": "cpu", "progress": False}
    torch.manual_seed(1)
    features = Small()
    for epochs in (1, 2):
        model, guide, _ = pair()
        pyro_vae.fit(model, guide, x, objective=Perceptual(features), epochs=epochs, resume=epochs > 1, **options)
    other = Small()
    with pytest.raises(pyro_vae.errors.InputError, match="another experiment: the objective's frozen networks was"):
        pyro_vae.fit(*pair()[:2], x, objective=Perceptual(other), epochs=3, resume=True, **options)


def test_the_recorded_step_equals_the_eager_one():
    model, guide, x = pair()
    model, guide = as_programs(model, guide)
    step = Step(model, guide, Perceptual(Small(), 0.5, num_particles=3))
    recording = Recording(step, step, {"x": x}, differentiate=True)
    recording.check({"x": x}, 1e-5)
    recording.check({"x": x.flip(0)}, 1e-5)


@pytest.mark.parametrize(
    "likelihood",
    [
        likelihoods.Gaussian("learned"),
        likelihoods.Laplace("per_pixel"),
        likelihoods.Bernoulli(),
        likelihoods.ContinuousBernoulli(),
        likelihoods.DiscretizedLogisticMixture(2),
        likelihoods.LogitLaplace(),
        likelihoods.Beta(),
        likelihoods.Categorical(4),
    ],
    ids=lambda likelihood: type(likelihood).__name__,
)
def test_of_every_likelihood_the_mean_has_a_gradient(likelihood):
    model, guide, x = pair(likelihood)
    x = (x > 0.5).float() if isinstance(likelihood, likelihoods.Bernoulli) else (x * 3).round() / 3
    penalty = Perceptual(Small(), 1.0)
    objective = penalty.prepare(
        pyro_vae.programs.pair.examine(*as_programs(model, guide), {"x": x}), pyro_vae.data.Split({"x": x})
    )
    pair_ = objective._pair.traces({"x": x}, 1)
    loss = sum(v.mean() for v in objective.penalties(objective.image_site(pair_), pair_).values())
    (gradient,) = torch.autograd.grad(loss, [model.decoder.mlp.out.bias])
    assert loss.isfinite() and gradient.isfinite().all() and gradient.abs().max() > 0


def discrete(x=None, *, num_samples=1):
    """A model whose latent is summed over."""
    with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
        k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        mean = k[..., None, None, None] * torch.ones(SHAPE)
        return pyro.sample("x", dist.Normal(mean, 1.0).to_event(3), obs=x)


def test_score_functions_know_of_the_penalty():
    """The gradient of a guide that draws a bit, against the exact one."""

    def model(x=None, *, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            return pyro.sample("x", dist.Normal(k[..., None, None, None] * torch.ones(SHAPE), 3.0).to_event(3), obs=x)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.logit = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("k", dist.Bernoulli(logits=self.logit.expand(len(x))))

    torch.manual_seed(0)
    x, features, guide = torch.rand(1, *SHAPE, dtype=torch.float64), Small().double(), Guide()
    objective = Perceptual(features, 2.0, num_particles=4000)
    objective.differentiable_loss(model, guide, x=x).backward()
    logit = guide.logit.detach().requires_grad_()
    with torch.no_grad():
        images = torch.stack([torch.zeros_like(x), torch.ones_like(x)])
        error = sum(
            2.0 * (features(image)[n] - features(x)[n]).square().sum() * torch.tensor([1 - i, i])
            for i, image in enumerate(images)
            for n in ("first", "second")
        )
        log_p = torch.distributions.Normal(images, 3.0).log_prob(x).flatten(1).sum(1)
    q = torch.stack([torch.sigmoid(-logit), torch.sigmoid(logit)])
    (q * (q.log() - math.log(0.5) - log_p + error)).sum().backward()
    assert abs(guide.logit.grad - logit.grad) < 0.1 * abs(logit.grad) + 0.02
    assert abs((q * (1 - q)).prod().sqrt() * (error[1] - error[0])) > 0.2  # it has a part in it


def test_what_cannot_be_used_is_refused():
    model, guide, x = pair()

    def fitted(model, guide, x, **options):
        pyro_vae.fit(model, guide, x, objective=Perceptual(**options), epochs=1, progress=False, device="cpu")

    with pytest.raises(InputError, match="weight must be a number from 0"):
        Perceptual(Small(), -1.0)
    with pytest.raises(InputError, match="weight second must be a number from 0"):
        Perceptual(Small(), {"first": 1.0, "second": math.nan})
    with pytest.raises(InputError, match="features must be a module"):
        Perceptual(torch.tanh)
    with pytest.raises(InputError, match=r"unknown layer in Perceptual's weight 'frist'. Did you mean 'first'"):
        fitted(model, guide, x, features=Small(), weight={"frist": 1.0})
    with pytest.raises(InputError, match="unknown data site of Perceptual 'y'"):
        fitted(model, guide, x, features=Small(), site="y")
    flat = VAE((7,), 2, likelihoods.Gaussian(), hidden_dims=())
    with pytest.raises(InputError, match=r"for data that are images.*'x' \(7,\)"):
        fitted(flat, GaussianGuide(flat, hidden_dims=()), torch.rand(9, 7), features=Small())
    with pytest.raises(InputError, match=r"'x' has event shape \(7,\)"):
        fitted(flat, GaussianGuide(flat, hidden_dims=()), torch.rand(9, 7), features=Small(), site="x")
    pixelcnn = VAE(SHAPE, 2, likelihoods.PixelCNN(features=2, channels=4), hidden_dims=(4,))
    with pytest.raises(InputError, match="has no mean given the latents"):
        fitted(pixelcnn, GaussianGuide(pixelcnn, hidden_dims=(4,)), (x > 0.5).float(), features=Small())
    of_features = FeatureVAE(SHAPE, Small(), 2, "mlp", (4,))
    with pytest.raises(InputError, match="the model has 0 such sites"):
        fitted(of_features, GaussianGuide(of_features, hidden_dims=(4,)), x, features=Small())
    with pytest.raises(InputError, match="which is summed over"):
        fitted(discrete, pyro_vae.guides.EmptyGuide(), x, features=Small())


def test_classes_have_no_mean_and_masks_leave_out_pixels():
    x = torch.randint(3, (9, *SHAPE))

    def classes(x=None, *, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            logits = z[..., None, None, None, None] * torch.arange(3.0).expand(*SHAPE, 3)
            return pyro.sample("x", dist.Categorical(logits=logits).to_event(3), obs=x)

    def masked(x=None, *, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            fn = dist.Normal(z[..., None, None, None].expand(*z.shape, *SHAPE), 1.0)
            return pyro.sample("x", fn.mask(torch.arange(6) < 3).to_event(3), obs=x)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.tensor(0.1))

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.loc, 1.0))

    for model, data, words in ((classes, x, "has no mean given"), (masked, x / 2, "leaves out pixels")):
        with pytest.raises(InputError, match=words):
            pyro_vae.fit(model, Guide(), data, objective=Perceptual(Small()), epochs=1, progress=False, device="cpu")
