"""The shared contract: what every (model, guide) pair must do. A pair's test subclasses PairContract."""

import copy
import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from torch import nn

from pyro_vae import fit
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, bidirectional, elbo, log_likelihood
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.programs.context import needed_to_generate, required_arguments
from pyro_vae.programs.densities import log_weights
from pyro_vae.programs.enumeration import Marked, summed_sites
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.program import Program, as_programs, prime
from pyro_vae.programs.traces import is_latent, plate_dims, traced
from pyro_vae.recording import Recording
from pyro_vae.training.checkpoint import load_weights, named_weights, save_weights
from pyro_vae.training.compiled import Step


def as_split(batch):
    """The batch as a split; x that are int64 are integers by nature."""
    return Split(batch, integers=batch["x"].dtype == torch.int64)


class PairContract:
    """Tests that a pair inherits.

    A subclass writes :meth:`make_pair`. It may set ``learning_rate``, ``steps`` for a pair that is slow to improve,
    ``has_latents = False`` for one without latents,
    ``has_randomness = False`` for a guide of point masses, and ``has_continuous_latents = False`` where latents are
    codes. A model that needs context is given the batch's. Discrete latents may be summed over; a guide that enumerates
    some has ``start = "prior"``, which annealing needs then.
    """

    learning_rate = 3e-3
    steps = 30
    has_latents = True
    has_randomness = True
    has_continuous_latents = True
    start = "guide"
    nesting = 1  # of plates, for Pyro

    def make_pair(self):
        """A fresh model, its guide, and a batch (dict of tensors, 12 data or more); the same at every call."""
        raise NotImplementedError

    def programs(self):
        """The pair as Programs whose parameters all exist, and the batch as the programs see it."""
        model, guide, batch = self.pair()
        model, guide = as_programs(model, guide)
        batch = as_split(batch).batch(slice(None))
        prime(model, guide, batch)
        return model, guide, batch

    def pair(self):
        torch.manual_seed(11)
        return self.make_pair()

    def traces(self):
        model, guide, batch = self.programs()
        return Pair(model, guide, sums=self.sums(model, guide, batch)).traces(batch)

    def sums(self, model, guide, batch):
        """What of the pair is summed over."""
        drawn = traced(guide, **batch)
        return summed_sites(traced(poutine.replay(model, trace=drawn), **batch), drawn)

    # -------------------------------------------------------------------------- sites and shapes
    def test_model_and_guide_have_the_same_sites(self):
        pair = self.traces()
        ours = {n for n, s in pair.model.nodes.items() if is_latent(s)}
        theirs = {n for n, s in pair.guide.nodes.items() if is_latent(s) and not s["infer"].get("is_auxiliary")}
        assert ours - pair.sums.model == theirs
        assert bool(ours) == self.has_latents
        assert pair.observed()
        for name in ours & theirs:
            p, q = pair.model.nodes[name]["fn"], pair.guide.nodes[name]["fn"]
            assert p.event_shape == q.event_shape, name
            assert any(f.name == "data" and f.dim == -1 for f in pair.guide.nodes[name]["cond_indep_stack"]), name

    def test_particles_broadcast(self):
        """Weights (K, N), each particle's row equal to the one of a run with its own latents only."""
        model, guide, batch = self.programs()
        self.check_particles(model.eval(), guide.eval(), batch)

    def check_particles(self, model, guide, batch, k=3):
        sums = self.sums(model, guide, batch)
        nesting = plate_dims(traced(model, **batch), traced(guide, **batch))
        pair = Pair(model, guide, nesting, sums=sums).traces(batch, k)
        together = log_weights(pair, scaled=False)  # (K, N)
        assert together.shape == (k, pair.size)
        for particle in range(k):
            drawn = pair.guide.copy()
            for name in sums.guide:  # has all its values there as well
                drawn.remove_node(name)
            for name, (q, _) in pair.latent().items():
                place = q["value"].dim() - q["fn"].event_dim + pair.particle_dim  # left of it: what is summed over
                assert q["value"].shape[place] == k, name
                value = q["value"].narrow(place, particle, 1)
                drawn.nodes[name] = {**q, "value": value if place else value[0]}

            def replayed(drawn=drawn, **kwargs):
                return poutine.replay(guide, trace=drawn)(**kwargs)

            alone = Pair(model, replayed, nesting, sums=sums).traces(batch)
            row = log_weights(alone, scaled=False)[0]
            torch.testing.assert_close(row, together[particle], rtol=1e-4, atol=1e-3)

    def test_prior_samples_have_the_shape_of_data(self):
        model, _, batch = self.programs()
        with torch.no_grad():
            context = {name: batch[name][:5] for name in required_arguments(model)}
            trace = poutine.trace(model).get_trace(**context, num_samples=5)
        x = trace.nodes["_RETURN"]["value"]
        assert x.shape == (5, *batch["x"].shape[1:]) and x.isfinite().all()
        for name in self.traces().observed():
            if name.endswith("_observed"):  # what some data have; it is drawn under the site's own name
                name = name.removesuffix("_observed")
            site = trace.nodes[name]
            assert not site["is_observed"]
            assert site["fn"].log_prob(site["value"]).isfinite().all()

    def test_a_batch_of_another_size(self):
        model, guide, batch = self.programs()
        objective = ELBO()
        for n in (1, 5):
            part = {name: value[:n] for name, value in batch.items()}
            model.eval(), guide.eval()  # batch statistics of one datum are nobody's contract
            assert math.isfinite(objective.loss(model, guide, **part))

    # -------------------------------------------------------------------------- learning
    def test_every_parameter_gets_a_gradient(self):
        model, guide, batch = self.programs()
        ELBO(num_particles=4)(model, guide)(**batch).backward()
        without = [
            n
            for n, p in named_weights(model, guide).items()
            if isinstance(p, nn.Parameter)
            and p.requires_grad
            and (p.grad is None or not p.grad.isfinite().all() or not p.grad.any())
        ]
        assert without == [], f"parameters without a gradient: {without}"

    def test_the_elbo_is_finite_and_improves(self):
        *programs, batch = self.programs()
        state = torch.get_rng_state()
        before = elbo(*programs, batch, num_particles=20)
        fit(
            *programs,
            batch,
            objective=ELBO(),
            epochs=self.steps,
            batch_size=len(batch["x"]),
            learning_rate=self.learning_rate,
            progress=False,
            device="cpu",
        )
        after = elbo(*programs, batch, num_particles=20)
        assert before.per_datum.isfinite().all() and after.per_datum.isfinite().all()
        assert after.mean > before.mean + 0.1
        assert torch.equal(torch.get_rng_state(), state)

    def test_validation_has_no_part_in_training(self):
        """Parameters, codebooks, moving averages, statistics: with validation and without, bit for bit."""
        ends = []
        for validated in (False, True):
            *programs, batch = self.programs()
            split = as_split(batch)
            fit(
                *programs,
                Data(split, validation=split.subset(5) if validated else None),
                objective=ELBO(),
                epochs=2,
                batch_size=-(-len(split) // 2),
                learning_rate=self.learning_rate,
                progress=False,
                device="cpu",
                compile="off",
            )
            ends.append(named_weights(*programs))
        for name, value in ends[0].items():
            assert torch.equal(value, ends[1][name]), name

    @pytest.mark.parametrize("objective", [ELBO, IWAE])
    def test_the_recorded_step_equals_the_eager_step(self, objective):
        """Loss, terms and gradients to 1e-5 with the same random numbers, also for a batch not recorded with."""
        model, guide, batch = self.programs()
        step = Step(model, guide, objective(num_particles=3))
        recording = Recording(step, step, batch, differentiate=True)
        recording.check(batch, 1e-5)
        recording.check({name: value.flip(0) for name, value in batch.items()}, 1e-5)
        model.eval(), guide.eval()
        Recording(step, step, batch, differentiate=False).check(batch, 1e-5)

    def test_the_bound_rises_with_k(self):
        model, guide, batch = self.programs()
        with torch.no_grad():  # away from the start, where the decoder hardly depends on z
            for p in (*model.parameters(), *guide.parameters()):
                p.add_(0.3 * torch.randn_like(p))

        def bound(k):
            options = {"num_particles": k}
            return sum(log_likelihood(model, guide, batch, seed=s, **options).mean for s in range(5)) / 5

        few, many = bound(1), bound(50)
        assert math.isfinite(few) and math.isfinite(many)
        if self.has_latents and self.has_randomness:
            assert many > few + 0.05
        else:  # every draw's weight is p(x) itself
            assert many == few
        for k in (1, 4):
            assert math.isfinite(IWAE(k).loss(model, guide, **batch))

    def test_annealing_bounds_the_likelihood_from_both_sides(self):
        model, guide, batch = self.pair()
        options = {"num_temperatures": 12, "num_leapfrog": 2, "num_chains": 4, "start": self.start}
        if not self.has_continuous_latents:
            with pytest.raises(InputError, match=r"is discrete|is a point mass|no latent site"):
                ais(model, guide, batch, **options)
            return
        context = {name: batch[name] for name in needed_to_generate(model)}
        result = bidirectional(model, guide, len(batch["x"]), batch=context, **options)
        gap, error = result.gap
        assert gap > -4 * error and math.isfinite(gap)
        annealed = ais(model, guide, batch, **options)
        assert annealed.per_datum.isfinite().all() and annealed.acceptance.mean() > 0.1

    def test_plain_svi_improves_and_leaves_nothing(self):
        sums = self.sums(*self.programs())
        model, guide, batch = self.pair()
        batch = as_split(batch).batch(slice(None))
        pyro.set_rng_seed(0)
        loss = Trace_ELBO(num_particles=4, vectorize_particles=True)
        programs = _called(model), _called(guide)
        if sums:
            loss = TraceEnum_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=self.nesting)
            programs = [Marked(names)(p) for names, p in zip((sums.model, sums.guide), programs, strict=True)]
        try:
            svi = SVI(*programs, pyro.optim.Adam({"lr": self.learning_rate}), loss)
            before = sum(svi.evaluate_loss(**batch) for _ in range(5))
            for _ in range(self.steps):
                svi.step(**batch)
            after = sum(svi.evaluate_loss(**batch) for _ in range(5))
        finally:
            pyro.clear_param_store()
        assert math.isfinite(before) and after < before

    # -------------------------------------------------------------------------- weights and modes
    def test_weights_survive_a_round_trip(self, tmp_path):
        model, guide, batch = self.programs()
        with torch.no_grad():
            for p in named_weights(model, guide).values():
                if p.is_floating_point():
                    p.add_(0.05 * torch.rand_like(p))
        save_weights(tmp_path / "model.safetensors", model, guide)
        fresh_model, fresh_guide, _ = self.programs()
        options = {"num_particles": 2}
        wanted = log_likelihood(model, guide, batch, **options).per_datum
        assert not torch.equal(log_likelihood(fresh_model, fresh_guide, batch, **options).per_datum, wanted)
        load_weights(tmp_path / "model.safetensors", fresh_model, fresh_guide)
        assert torch.equal(log_likelihood(fresh_model, fresh_guide, batch, **options).per_datum, wanted)

    @pytest.mark.parametrize("training", [True, False])
    def test_evaluation_restores_modes_and_changes_no_weight(self, training):
        model, guide, batch = self.programs()
        model.train(training), guide.train(not training)
        modes = [m.training for program in (model, guide) for m in program.modules()]
        before = copy.deepcopy(dict(named_weights(model, guide)))
        elbo(model, guide, batch, num_particles=1)
        log_likelihood(model, guide, batch, num_particles=2)
        assert [m.training for program in (model, guide) for m in program.modules()] == modes
        for name, value in named_weights(model, guide).items():
            assert torch.equal(value, before[name]), name


def _called(program):
    """The program as Pyro calls it, handed only the arguments it has (as Program does)."""
    names = Program(program)._arguments
    if names is None:
        return program

    def run(**batch):
        return program(**{k: v for k, v in batch.items() if k in names})

    return run
