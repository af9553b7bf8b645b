"""Which latent can have another prior: found out by runs of the model, and refused by name where it would be wrong."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae.errors import InputError
from pyro_vae.programs.program import as_programs
from pyro_vae.programs.session import in_evaluation
from pyro_vae.programs.site_priors import WithPriors, site_to_replace

X = torch.arange(12.0).reshape(4, 3) / 10


def normal(mean=0.0, size=2):
    return dist.Normal(torch.zeros(size) + mean, 1.0).to_event(1)


def make(latents, of_guide=None):
    """A pair of latents, each drawn from a distribution that is made of the earlier ones and x, in the data plate."""

    def model(x=None, num_samples=1):
        z = {}
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            for name, fn in latents.items():
                z[name] = pyro.sample(name, fn(z, x))
            pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=x)

    def guide(x):
        z = {}
        with pyro.plate("data", len(x), dim=-1):
            for name, fn in {**latents, **(of_guide or {})}.items():
                if fn is not None:
                    z[name] = pyro.sample(name, fn(z, x))

    return model, guide


def found(pair, site=None, x=X):
    model, guide = as_programs(*pair)
    with in_evaluation([model, guide], {"x": x}, seed=0) as batch:
        return site_to_replace(model, guide, batch, site)


def rare(z, x):
    return dist.Categorical(torch.tensor([1.0 - 1e-6, 1e-6]))


REFUSED = {
    "another latent": ({"a": lambda z, x: normal(), "z": lambda z, x: normal(1e-3 * z["a"])}, {}, "depends on what"),
    "its scale": (
        {"a": lambda z, x: normal(), "z": lambda z, x: dist.Normal(0.0, z["a"].exp()).to_event(1)},
        {},
        "depends on what",
    ),
    "a class that is hardly drawn": (
        {"c": rare, "z": lambda z, x: normal(z["c"][..., None].float())},
        {"c": None, "z": lambda z, x: normal()},
        "depends on what",
    ),
    "the data": ({"z": lambda z, x: normal(0.0 if x is None else x[:, :2])}, {}, "depends on what"),
    "a positive one": ({"z": lambda z, x: dist.LogNormal(torch.zeros(2), 1.0).to_event(1)}, {}, "no real numbers"),
    "an angle": ({"z": lambda z, x: dist.VonMises(torch.zeros(2), 1.0).to_event(1)}, {}, "no real numbers"),
    "codes": ({"z": lambda z, x: dist.Categorical(torch.ones(2, 5)).to_event(1)}, {}, "it is discrete"),
    "a sum": ({"z": lambda z, x: dist.Categorical(torch.ones(5))}, {"z": None}, "it is summed over"),
    "a function": ({"z": lambda z, x: dist.Delta(torch.ones(2), event_dim=1)}, {}, "a point mass in the model"),
    "a point": (
        {"z": lambda z, x: normal()},
        {"z": lambda z, x: dist.Delta(x[:, :2], event_dim=1)},
        "guide has a point",
    ),
    "a mask": (
        {"z": lambda z, x: dist.Normal(torch.zeros(2), 1.0).mask(torch.tensor([True, False])).to_event(1)},
        {},
        "masked",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_where_it_would_be_another_model_it_is_refused_by_name(case):
    latents, of_guide, words = REFUSED[case]
    with pytest.raises(InputError, match=words) as error:
        found(make(latents, of_guide), "z")
    assert "'z'" in str(error.value)


def test_one_that_all_data_share_and_one_in_a_plate_of_its_own_are_refused():
    def program(x=None, num_samples=1):
        pyro.sample("w", normal())
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            with pyro.plate("parts", 2, dim=-2):
                pyro.sample("z", normal())
            pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=x)

    def guide(x):
        program(x)

    guide = pyro.poutine.block(guide, hide=["x"])
    for site, words in (("w", "all data share it"), ("z", "in plate 'parts'")):
        with pytest.raises(InputError, match=words):
            found((program, lambda x: guide(x)), site)
    with pytest.raises(InputError, match="'w': all data share it; 'z': it is in plate"):
        found((program, lambda x: guide(x)))


def test_by_default_it_is_the_first_that_depends_on_nothing():
    latents = {"c": rare, "z": lambda z, x: normal(z["c"][..., None].float()), "top": lambda z, x: normal(size=4)}
    of_guide = {"c": None, "z": lambda z, x: normal()}
    assert found(make(latents, of_guide)) == ("top", (4,))
    with pytest.raises(InputError, match=r"unknown latent site 'tap'\. Did you mean 'top'"):
        found(make(latents, of_guide), "tap")
    with pytest.raises(InputError, match="no latent site"):
        found(make({}))


class Shifted(nn.Module):
    def __init__(self, size=2):
        super().__init__()
        self.shape, self.loc = (size,), nn.Parameter(torch.full((size,), 0.5))

    def forward(self):
        return dist.Normal(self.loc, 1.0).to_event(1)


def test_a_prior_of_another_shape_is_refused_before_it_is_trained_and_where_it_is_used():
    model, guide = make({"z": lambda z, x: normal()})
    with pytest.raises(InputError, match=r"'z' has event shape \(2,\), and the Shifted is over \(3,\).*shape=\[2\]"):
        pyro_vae.fit_prior(model, guide, X, Shifted(3), epochs=1, progress=False)
    with pytest.raises(InputError, match=r"'z' has event shape \(2,\)"):
        pyro_vae.sample(WithPriors(model, {"z": Shifted(3)}), 2)
    with pytest.raises(InputError, match="objective"):
        pyro_vae.fit_prior(model, guide, X, Shifted(), epochs=1, progress=False, objective=pyro_vae.IWAE(2))


def test_particles_and_several_sites_have_the_right_density():
    """Two sites at once, in plates of data and particles: an importance weight by hand."""
    pair = make({"a": lambda z, x: normal(), "z": lambda z, x: normal(size=3)})
    priors = {"a": Shifted(), "z": Shifted(3)}
    both = WithPriors(pair[0], priors)
    result = pyro_vae.log_likelihood(both, pair[1], X, num_particles=20_000, progress=False)
    expected = dist.Normal(torch.zeros(3), 1.0).to_event(1).log_prob(X)  # x does not depend on the latents
    torch.testing.assert_close(result.per_datum.float(), expected, atol=0.05, rtol=0)
    exact = pyro_vae.elbo(both, pair[1], X, analytic_kl=True)
    assert exact.to_dict()["kl"] == pytest.approx({"a": 0.25, "z": 0.375}, abs=1e-5)  # |m|^2 / 2


def test_a_prior_of_a_site_that_is_not_there_is_no_prior_that_is_silently_left_out():
    """Under another name the numbers would be those of the model's own prior."""
    model, guide = make({"z": lambda z, x: normal()})
    other = WithPriors(model, {"q": Shifted()})
    for ask in (
        lambda: pyro_vae.log_likelihood(other, guide, X, num_particles=2, progress=False),
        lambda: pyro_vae.elbo(other, guide, X),
        lambda: pyro_vae.sample(other, 2),
        lambda: WithPriors(model, {"z": Shifted(), "q": Shifted()})(X),
    ):
        with pytest.raises(InputError, match=r"a prior of site 'q'.*no such site \(it has z, x\)"):
            ask()


def test_a_site_of_single_numbers_is_told_how_it_can_have_a_prior():
    pair = make({"z": lambda z, x: dist.Normal(x.new_zeros(len(x)) if x is not None else torch.zeros(()), 1.0)})
    with pytest.raises(InputError, match=r"'z' is of single numbers.*to_event\(1\)"):
        pyro_vae.fit_prior(*pair, X, pyro_vae.priors.MixturePrior((1,), 2), epochs=1, progress=False)
    with pytest.raises(InputError, match=r"single numbers.*to_event\(1\)"):
        pyro_vae.priors.MixturePrior(())
