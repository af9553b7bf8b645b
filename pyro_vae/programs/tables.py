"""Tables of log-densities at all values of what is summed over, and sums over them, plate by plate."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import opt_einsum
import torch
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import LogRing
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.programs.enumeration import MOST, PARTICLES
from pyro_vae.programs.sites import Site

if TYPE_CHECKING:
    from pyro_vae.programs.traces import TracePair

LOWEST = -1e30  # nats: what is below is no density


class _StableRing(LogRing):
    """Sums of products of exponentials that neither overflow nor underflow: one dimension after another."""

    def sumproduct(self, terms: Sequence[Tensor], dims: Iterable[str]) -> Tensor:
        """log of the sum over ``dims`` of the product of exp(terms), packed."""
        terms, left = list(terms), set(dims)
        while left:
            dim = min(sorted(left), key=lambda d: _joint_size([t for t in terms if d in t._pyro_dims]))
            left.remove(dim)
            joined = _added([t for t in terms if dim in t._pyro_dims])
            place = joined._pyro_dims.index(dim)
            rest = joined.logsumexp(place)
            rest._pyro_dims = joined._pyro_dims.replace(dim, "")
            terms = [t for t in terms if dim not in t._pyro_dims] + [rest]
        return _added(terms)


def _joint_size(terms: Sequence[Tensor]) -> int:
    return math.prod({d: n for t in terms for d, n in zip(t._pyro_dims, t.shape, strict=True)}.values())


def _added(terms: Sequence[Tensor]) -> Tensor:
    size = _joint_size(terms)
    if size > MOST:
        raise InputError(
            f"the sum over discrete latents has {size:,} terms at once: fewer data or particles at once, or let the "
            "guide draw some of these latents"
        )
    if len(terms) == 1:
        return terms[0]
    broadcast = packed.broadcast_all(*terms)
    found: Tensor = sum(broadcast[1:], broadcast[0])
    found._pyro_dims = broadcast[0]._pyro_dims
    return found


class Tables:
    """Log-densities of a pair's sites at all values of what is summed, and the sums.

    Args:
        pair: traces that were made under :class:`~pyro_vae.programs.enumeration.AllValues`.
        summed: the sites over which is summed here; the others' dimensions stay.
    """

    def __init__(self, pair: TracePair, summed: frozenset[str]) -> None:
        self.pair = pair
        pair.guide.symbolize_dims()
        pair.model.symbolize_dims(pair.guide.plate_to_symbol)
        self._dims = {**pair.guide.symbol_to_dim, **pair.model.symbol_to_dim}
        nodes = {**pair.guide.nodes, **pair.model.nodes}
        self._symbols = {name: nodes[name]["infer"]["_enumerate_symbol"] for name in pair.sums.names}
        self.summed = {self._symbols[name] for name in summed}
        self._names = {symbol: name for name, symbol in self._symbols.items()}
        self._priors = {
            self._symbols[n]: self.packed(log_prob_of_all(pair.model.nodes[n]), pair.model.nodes[n]) for n in summed
        }

    def leaves(self) -> dict[str, Tensor]:
        """Zeros that are added to log p of each summed site, by name, packed: to differentiate by.

        The derivative of the log of a sum by them is the posterior probability of each value.
        """
        found = {}
        for symbol, (plates, value) in self._priors.items():
            leaf = torch.zeros_like(value, requires_grad=True)
            dims, value = value._pyro_dims, value + leaf
            leaf._pyro_dims = value._pyro_dims = dims
            self._priors[symbol], found[self._names[symbol]] = (plates, value), leaf
        return found

    def of_values(self, name: str, value: Tensor, dims: str) -> Tensor:
        """A sum over particles of what each value of a summed site has, ``(size, *inner plates, number of values)``.

        Args:
            name: of the site.
            value: packed.
            dims: its dimensions.
        """
        site, pair = self.pair.model.nodes[name], self.pair
        plates = {f.name: (f.dim, f.size) for f in site["cond_indep_stack"] if f.vectorized}
        data = [n for n, (dim, _) in plates.items() if dim == -1]
        inner = sorted((n for n in plates if n != PARTICLES and n not in data), key=lambda n: plates[n][0])
        symbol_of = {n: pair.model.plate_to_symbol[n] for n in plates}
        keep = "".join([symbol_of[n] for n in (*data, *inner)] + [self._symbols[name]])
        missing = [d for d in keep if d not in dims]  # plates of one
        value = opt_einsum.contract(f"{dims}->{''.join(d for d in keep if d in dims)}", value, backend="torch")
        for d in missing:
            value = value.unsqueeze(keep.index(d))
        if pair.copies > 1:
            value = value.unflatten(0, (pair.size, pair.copies)).sum(1)
        return value

    def packed(self, value: Tensor, site: Site) -> tuple[frozenset[str], Tensor]:
        """A batch-shaped value of a site, with its plates, its dimensions named."""
        names: dict[int, str] = site["infer"].get("_dim_to_symbol", {})
        plates = frozenset(names[f.dim] for f in site["cond_indep_stack"] if f.vectorized)
        try:
            return plates, packed.pack(value, names)
        except ValueError as error:
            raise InputError(
                f"site '{site['name']}' has batch shape {tuple(value.shape)}, in which some dimensions are neither "
                "plates nor values of discrete latents: declare event dimensions with .to_event"
            ) from error

    def depends(self, factor: tuple[frozenset[str], Tensor]) -> bool:
        """Whether a log-density depends on what is summed."""
        return not self.summed.isdisjoint(factor[1]._pyro_dims)

    def chains(self, factors: Mapping[str, list[tuple[frozenset[str], Tensor]]]) -> dict[tuple[str, ...], Tensor]:
        r"""What each of the sites adds to the log of the sum, in their order.

        .. math:: \log \sum_c p(c) \prod_{j \le i} f_j(c) - \log \sum_c p(c) \prod_{j < i} f_j(c)

        for site i, whose factor f_i (a density, say) depends on what is summed. The terms add up to the log of the
        sum over everything.

        Args:
            factors: of each site, log f packed.

        Returns:
            by sites ``(num_particles, size)``, one by one; of more than eight in one sum, the latents' together, and
            the data's.
        """
        found: dict[tuple[str, ...], Tensor] = {}
        for names, priors in self._components(factors):
            groups = [[name] for name in names]
            if len(names) > APART:
                latent = [name for name in names if name in self.pair.guide.nodes]
                groups = [group for group in (latent, [n for n in names if n not in latent]) if group]
            before: Tensor | float = 0.0
            for i, group in enumerate(groups):
                together = [f for names in groups[: i + 1] for name in names for f in factors[name]]
                now = self._log_sum([*priors, *together], self.pair.model.nodes[group[0]])
                found[tuple(group)] = now - before
                before = now
        return found

    def _components(self, factors: Mapping[str, Any]) -> list[tuple[list[str], list[Any]]]:
        """Sites whose factors hang together by what is summed, with the summed sites' own densities."""
        every = {**{(s,): [f] for s, f in self._priors.items()}, **factors}
        left = {name: {d for f in every[name] for d in f[1]._pyro_dims} & self.summed for name in every}
        components = []
        while left:
            members = [next(iter(left))]
            symbols = left.pop(members[0])
            while joined := [name for name, its in left.items() if its & symbols]:
                for name in joined:
                    symbols |= left.pop(name)
                    members.append(name)
            names = [name for name in factors if name in members]
            if names:
                components.append((names, [self._priors[s] for s in sorted(symbols)]))
        return components

    def _log_sum(self, factors: list[tuple[frozenset[str], Tensor]], site: Site) -> Tensor:
        """log of the sum over what is summed of the product of factors, ``(num_particles, size)``."""
        tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        for plates, value in factors:
            tree.setdefault(plates, []).append(value)
        symbols = {d for terms in tree.values() for t in terms for d in t._pyro_dims} & self.summed
        try:
            contracted = contract_tensor_tree(tree, symbols, ring=_StableRing())
        except NotImplementedError as error:
            raise InputError(
                f"the sum over {', '.join(sorted(self._names[s] for s in symbols))} cannot be taken plate by plate: "
                f"{error}"
            ) from error
        return sum(self.per_datum(plates, term, site) for plates, terms in contracted.items() for term in terms)

    def per_datum(self, plates: frozenset[str], value: Tensor, site: Site) -> Tensor:
        """A packed value, averaged over what the guide enumerates, as ``(num_particles, size)``.

        Its inner plates are summed.
        """
        if not self.summed.isdisjoint(value._pyro_dims):
            names = ", ".join(sorted(self._names[d] for d in self.summed & set(value._pyro_dims)))
            raise InputError(f"site '{site['name']}' has a value for every value of {names}, which is summed over")
        plates, value = self._expected((plates, value))
        plain = packed.unpack(value, self._dims)
        frames = tuple(f for f in site["cond_indep_stack"] if self.pair.model.plate_to_symbol.get(f.name) in plates)
        return self.pair.per_datum(plain, {**site, "cond_indep_stack": frames})

    def _expected(self, factor: tuple[frozenset[str], Tensor]) -> tuple[frozenset[str], Tensor]:
        r"""E over the guide's enumerated sites of a value that depends on them, :math:`\sum_y q(y) f(y)`, packed."""
        plates, value = factor
        guide = self.pair.guide
        q: dict[str, tuple[frozenset[str], Tensor]] = {}
        pending = [d for d in value._pyro_dims if self._names.get(d) in self.pair.sums.guide]
        while pending:
            name = self._names[pending.pop()]
            if name in q:
                continue
            q[name] = self.packed(log_prob_of_all(guide.nodes[name]), guide.nodes[name])
            pending += [d for d in q[name][1]._pyro_dims if self._names.get(d) in self.pair.sums.guide]
        if not q:
            return factor
        gone = {self._symbols[name] for name in q}
        operands = [value.clamp(min=torch.finfo(value.dtype).min / 2), *(log_q.exp() for _, log_q in q.values())]
        dims = [value._pyro_dims, *(log_q._pyro_dims for _, log_q in q.values())]
        left = "".join(sorted(set("".join(dims)) - gone))
        found = opt_einsum.contract(f"{','.join(dims)}->{left}", *operands, backend="torch")
        found = torch.where(found < LOWEST, -torch.inf, found)
        found._pyro_dims = left
        return plates.union(*(its for its, _ in q.values())), found


APART = 8  # sites of one sum that are told apart, at most


def log_prob_of_all(site: Site) -> Tensor:
    """log-density of a summed site at all its values, which add up to one: neither masked nor scaled."""
    value: Tensor = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return value
