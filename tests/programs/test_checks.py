"""What a user may get wrong in a program: one sentence, with the site, the shapes and what to write instead."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_vae import fit
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo, log_likelihood

net = torch.nn.Linear(2, 12)
IMAGES = torch.rand(10, 1, 3, 4)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


def model_of(observe):
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return observe(z, x)

    return model


def normal(z, shape=(1, 3, 4)):
    return dist.Normal(net(z).unflatten(-1, shape), 0.5)


TOOLS = [
    lambda m, g, x: log_likelihood(m, g, x, num_particles=3),
    elbo,
    lambda m, g, x: fit(m, g, x, epochs=1, progress=False),
]


def refused(model, inference, x, sentence):
    for tool in TOOLS:
        with pytest.raises(InputError, match=sentence):
            tool(model, inference, x)


@pytest.mark.parametrize("events", [0, 1, 2])
def test_event_dimensions_of_images(events):
    model = model_of(lambda z, x: pyro.sample("x", normal(z).to_event(events), obs=x))
    refused(model, guide, IMAGES, r"site 'x'.*Normal.*batch shape.*\.to_event\(3\)")
    other = model_of(lambda z, x: pyro.sample("pixels", normal(z).to_event(events), obs=x))
    refused(other, guide, IMAGES, r"site 'pixels'.*Normal.*batch shape.*\.to_event\(3\)")


def test_shapes_that_would_broadcast_are_no_data():
    """A column against rows: log_prob gives some number for it."""
    model = model_of(lambda z, x: pyro.sample("y", dist.Normal(net(z), 0.5).to_event(1), obs=x))
    refused(model, guide, torch.rand(10, 1), r"site 'y' observes values of shape \(2, 1\).*event shape \(12,\)")
    model = model_of(lambda z, x: pyro.sample("x", normal(z).to_event(3), obs=x))
    refused(model, guide, torch.rand(10, 3, 4), r"'x'.*\(1, 3, 4\)")


def test_a_data_site_in_no_plate_or_in_another():
    def outside(x=None, num_samples=1):
        z = pyro.sample("z", dist.Normal(torch.zeros(10 if x is None else len(x), 2), 1.0).to_event(2))
        return pyro.sample("x", normal(z).to_event(4), obs=x)

    refused(outside, lambda x: None, IMAGES, r"lacks the model's latent site z|'x'")

    def left(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(net(z), 0.5).to_event(1), obs=None if x is None else x[:, None])

    def left_guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1, 2), 1.0).to_event(1))

    refused(
        left,
        left_guide,
        torch.rand(10, 12),
        r"data site 'x' is in no plate at dim -1 \(it is in plate 'data' at dim -2\)",
    )


def test_a_guide_with_a_site_too_few_or_too_many():
    model = model_of(lambda z, x: pyro.sample("x", normal(z).to_event(3), obs=x))
    refused(
        model,
        lambda x: None,
        IMAGES,
        r"the guide lacks the model's latent site z .*add a pyro\.sample of the same name",
    )

    def more(x):
        guide(x)
        with pyro.plate("again", len(x)):
            pyro.sample("w", dist.Normal(0.0, 1.0))

    refused(model, more, IMAGES, r"the guide samples w, which the model does not \(it has: z\)")


def test_shapes_inside_a_program_are_told_with_the_site_before():
    model = model_of(lambda z, x: pyro.sample("x", normal(torch.cat([z, z], -1)).to_event(3), obs=x))
    refused(
        model, guide, IMAGES, r"cannot be run on x \(2, 1, 3, 4\), at or after site 'z': RuntimeError: mat1 and mat2"
    )


@pytest.mark.parametrize("site", ["x", "pixels", "obs"])
@pytest.mark.parametrize("computed", [True, False])
def test_supports_go_by_site_and_look_at_all_the_data(site, computed):
    """The offending number is in the last of many data; the program may compute what it observes."""
    x = torch.rand(1200, 12).round()
    x[-1, 5] = 0.5
    model = model_of(
        lambda z, x: pyro.sample(
            site, dist.Bernoulli(logits=net(z)).to_event(1), obs=x if x is None or not computed else 1 - x
        )
    )
    refused(model, guide, x, r"values from 0 to 1\) lie outside the support Boolean\(\) of its likelihood Bernoulli")
    x[-1, 5] = 1.0
    assert torch.isfinite(log_likelihood(model, guide, x[-5:], num_particles=2).per_datum).all()


SHARES = torch.arange(1.0, 13.0) / 78
OF_THE_DATA = {  # likelihoods whose support a program makes of the data that it is given; others' data change the last
    "multinomial": lambda p, x: dist.Multinomial(int(x.sum(-1).max()), p),
    "categorical": lambda p, x: dist.Categorical(torch.arange(x.max() + 1).expand(*p.shape, -1)).to_event(1),
}


@pytest.mark.parametrize("kind", OF_THE_DATA)
@pytest.mark.parametrize("num_data", [30, 1500])
def test_supports_that_are_made_of_the_data(kind, num_data):
    """The first data, at which sites are looked for, are smaller than the others."""
    x = torch.poisson(torch.full((num_data, 12), 2.0)) + (torch.arange(num_data)[:, None] > num_data - 10) * 10.0
    x[:2] = torch.arange(12.0) % 4
    model = model_of(lambda z, x: pyro.sample("obs", OF_THE_DATA[kind](SHARES + 0 * net(z), x), obs=x))
    if kind == "multinomial":
        exact = (x.sum(-1) + 1).lgamma() + (x * SHARES.log() - (x + 1).lgamma()).sum(-1)
        ours = log_likelihood(model, guide, x, num_particles=2).per_datum
        torch.testing.assert_close(ours.float(), exact, rtol=1e-5, atol=1e-3)
        TOOLS[2](model, guide, x)
        x = torch.cat([x, -x[-1:]])
    refused(model, guide, x, "lie outside the support")


def test_masked_numbers_may_be_anything():
    keep = torch.rand(20, 12) < 0.5
    x = torch.where(keep, torch.rand(20, 12).round(), -1.0)
    seen = {}

    def model(x=None, keep=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            fn = dist.Bernoulli(logits=net(z)).mask(keep).to_event(1)
            seen["x"] = pyro.sample("x", fn, obs=x)

    batch = Split({"x": x, "keep": keep})
    result = log_likelihood(model, guide, batch, num_particles=5)
    assert result.per_datum.isfinite().all()
    assert result.num_dimensions == pytest.approx(keep.sum().item() / 20)
    x[keep.nonzero()[0, 0], keep.nonzero()[0, 1]] = 0.5
    with pytest.raises(InputError, match="outside the support"):
        log_likelihood(model, guide, Split({"x": x, "keep": keep}), num_particles=5)


def test_dimensions_and_bits_say_of_what():
    """An image that is a density, and labels: bits are of the image, given what does not depend on latents."""
    words = dist.Categorical(torch.tensor([0.2, 0.8]))

    def model(x=None, text=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            text = pyro.sample("text", words.expand([3]).to_event(1), obs=text)
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(net(z), 0.5).to_event(1), obs=x)

    def with_label(x=None, y=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Bernoulli(logits=z.sum(-1)), obs=y)
            return pyro.sample("x", dist.Normal(net(z), 0.5).to_event(1), obs=x)

    x, text = torch.randn(15, 12), torch.randint(0, 2, (15, 3))
    both = log_likelihood(model, guide, {"x": x, "text": text}, num_particles=20)
    plain = model_of(lambda z, x: pyro.sample("x", dist.Normal(net(z), 0.5).to_event(1), obs=x))
    alone = log_likelihood(plain, guide, x, num_particles=20)
    assert both.bits_of == "x given text" and both.num_dimensions == 12 and both.density is True
    assert both.bits_per_dim == pytest.approx(alone.bits_per_dim, abs=1e-5)
    assert both.mean == pytest.approx(alone.mean + words.log_prob(text).sum(1).mean().item(), abs=1e-4)
    mixed = log_likelihood(with_label, guide, {"x": x, "y": (x[:, 0] > 0).float()}, num_particles=20)
    assert mixed.bits_per_dim != mixed.bits_per_dim and mixed.bits_of == "x given y"  # nan
    assert alone.bits_of == "x" and alone.to_dict()["density"] is True


@pytest.mark.parametrize("how", ["poutine", "inside", "outside"])
def test_what_a_mask_leaves_out_counts_neither_as_nats_nor_as_dimensions(how):
    keep = torch.arange(8) % 4 == 0
    quarter = torch.tensor(0.25)

    def model(x, keep):
        p = dist.Bernoulli(quarter.expand(len(x), 30))
        with pyro.plate("data", len(x)):
            if how == "poutine":
                with poutine.mask(mask=keep):
                    pyro.sample("x", p.to_event(1), obs=x)
            elif how == "outside":
                pyro.sample("x", p.to_event(1).mask(keep), obs=x)
            else:
                pyro.sample("x", p.mask(keep[:, None].expand(len(x), 30)).to_event(1), obs=x)

    x = (torch.rand(8, 30) < quarter).float()
    result = log_likelihood(model, lambda x: None, {"x": x, "keep": keep})
    assert result.num_dimensions == 30 * 2 / 8
    nats = dist.Bernoulli(quarter).log_prob(x).sum(1)[keep].sum().item() / 8
    assert result.mean == pytest.approx(nats, rel=1e-5)
    assert result.bits_per_dim == pytest.approx(-nats / 7.5 / torch.tensor(2.0).log().item(), rel=1e-5)
