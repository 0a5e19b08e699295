"""What is done for clients' privacy: clipping, noise, coarse identity tokens. By default nothing.

Source: McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018,
arXiv 1710.06963 (DP-FedAvg, Algorithm 1: flat clipping, client-level privacy). The noise is that of central
differential privacy: a trusted server sees every delta, those who see the global parameters afterwards do not.

What differs from the paper, on purpose: a round has a fixed number of clients, drawn without replacement, where the
paper draws each with a probability (Poisson); `epsilon` accounts for the latter, see there.

Legend: z noise multiplier, C clip norm, S the round's clients, m senders of a name, D features of an identity token.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fcit_ray.federated.traits import Implied, Part, Trait, Traits
from fcit_ray.params import clip_to_norm
from fcit_ray.seeds import derive_seed
from fcit_ray.types import Client, ClientUpdate, Setting


@dataclass(frozen=True, kw_only=True)
class Privacy(Part):
    """Base of all privacy rules; overriding nothing changes nothing."""

    implied: ClassVar[Implied] = {("clip",): Trait.CLIPS, ("noise",): Trait.NOISES}

    def hide(self, clients: Sequence[Client], seed: int) -> list[Client]:
        """The clients as the server may see them (their identity tokens, that is); `seed` is the run's."""
        return list(clients)

    def clip(self, updates: Sequence[ClientUpdate]) -> list[ClientUpdate]:
        """The updates, each bounded in what it can change."""
        return list(updates)

    def noise(self, delta: Mapping[str, Tensor], updates: Sequence[ClientUpdate], seed: int) -> dict[str, Tensor]:
        """The combined delta with noise; `seed` is the round's."""
        return dict(delta)

    def spent(self, setting: Setting, rounds: int) -> dict[str, float]:
        """What is known to be lost after so many rounds of the run, for its records; empty if nothing is."""
        return {}


@dataclass(frozen=True, kw_only=True)
class NoPrivacy(Privacy):
    """Nothing is clipped, nothing is noised, identity tokens travel in the clear, as in FCIT."""


@dataclass(frozen=True, kw_only=True)
class TokenNoise(Privacy):
    """Identity tokens leave their clients clipped, noised, quantised; deltas do not change. (proposal: not in FCIT)

    A client's token for a task is hidden once: the noise is drawn from the run's seed, the client and the task, the
    same in every round. Fresh noise would be averaged away by a server that sees the client again.

    Quantisation comes last: every entry x becomes the nearest of L + 1 = 2^token_bits levels that lie evenly from -m to
    m, m being the largest |x| of the token, so that token_bits D bits and one number would travel; with one bit, signs.
    These are the levels of Suresh, Yu, Kumar, McMahan, "Distributed Mean Estimation with Limited Communication", ICML
    2017, arXiv 1611.00429, whose rounding is random; here it goes to the nearest level, which told as little of the
    instructions and left tokens more alike (`benchmarks/README.md`).

    No epsilon is claimed: it would take a bound of what else tells who a client is (its number of samples, the
    subspace it trains). What a server that has candidates finds out all the same: docs/how-to/privacy.md. The price is
    known: two hidden copies of one token of norm `token_clip` have a cosine of about 1 / (1 + token_noise^2 D). For
    DISCO's threshold of 0.9, token_noise must stay below 0.33 / sqrt(D): 0.012 for the 768 features of CLIP-L, 0.029
    for 128; less where tokens are shorter than `token_clip`, or differ as it is. In quantisation no entry moves by more
    than m / L: a token of norm n keeps a cosine of at least sqrt(1 - D (m / (L n))^2) with itself, usually of
    1 / sqrt(1 + D (m / (L n))^2 / 3). Features of which a few entries are far larger than the others want more bits, or
    one. With one bit a cosine of c becomes 1 - 2 arccos(c) / pi where signs fall as those of random directions do
    (Charikar, "Similarity Estimation Techniques from Rounding Algorithms", STOC 2002): set DISCO's `threshold` to 0.71
    for what 0.9 is in the clear.

    Attributes:
        token_clip: longer tokens are scaled down to this norm (which cosines do not see).
        token_noise: standard deviation of the Gaussian noise on each of the D entries, as a multiple of `token_clip`.
        token_bits: of each entry, after clipping and noise; 0 does not quantise. With neither noise nor bits tokens
            travel as they are, unclipped.
    """

    token_clip: Annotated[float, Field(gt=0)] = 1.0
    token_noise: Annotated[float, Field(ge=0)] = 0.01
    token_bits: Annotated[int, Field(ge=0, le=16)] = 0

    def hide(self, clients: Sequence[Client], seed: int) -> list[Client]:
        if not self.token_noise and not self.token_bits:
            return list(clients)
        return [replace(client, feature=self._hidden(client, seed)) for client in clients]

    def _hidden(self, client: Client, seed: int) -> Tensor:
        feature = clip_to_norm({"token": client.feature.float()}, self.token_clip)["token"]
        if self.token_noise:
            draw = _gaussian(feature.shape, derive_seed(seed, "token", client.index, client.task))
            feature = feature + self.token_noise * self.token_clip * draw
        return quantised(feature, self.token_bits) if self.token_bits else feature


@dataclass(frozen=True, kw_only=True)
class DpFedAvg(TokenNoise):
    """Central differential privacy at the level of clients: clip every delta, average, add noise.

    A client's whole delta, over all names, is scaled down to norm C. The unweighted mean of a name over its m senders
    then gets noise N(0, (z C / m)^2) on every coordinate; for what all clients send, m = |S|. Names that nobody sent
    get none and keep their value. What is made of the result (momentum, gates, answers) costs no privacy any more.

    What is promised: epsilon at `delta` for two federations that differ in one client's deltas being zero. Its clipped
    delta counts 1 / m in each name, and the noise there is z C / m, so the change is at most 1 / z in units of the
    noise however its names are spread over subspaces: one Gaussian mechanism of multiplier z.

    What is not:
    * Where clients train different subspaces (DISCO), m and which subspaces change depend on the clients' identity
      tokens and show in the result; epsilon takes them as public knowledge. A subspace of one sender gets noise z C,
      |S| times the projector's: as private as the others, and sooner drowned.
    * Tokens themselves (unless `token_noise` hides them, for which no epsilon is claimed) and numbers of samples.
    * Who is missing from a round (`failures.then=drop`): m shows how many came. Noise is scaled to those, and epsilon
      is counted as if all had come; where clients fail because of their data, that they failed tells something of it.
    * The run's own records: clients' losses and scores are the trusted server's.
    * The draws are pseudo-random: whoever knows the run's seed (it stands in its configuration) can take them off
      again, and knows whom every round has drawn. And they are ordinary float32 normals, whose gaps an expert can use.

    Attributes:
        clip_norm: C, in units of a delta's Euclidean norm (`delta_norm` in the run's records shows what is usual).
        noise_multiplier: z; 0 clips and promises nothing.
        delta: probability with which the promise may fail; well below 1 / num_clients.
        token_noise: as in `TokenNoise`, `token_bits` too; by default tokens are not hidden.
    """

    declares = frozenset({Trait.CLIPS, Trait.NOISES, Trait.PROMISES_BOUND, Trait.COUNTS_ON_SECRECY})

    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    noise_multiplier: Annotated[float, Field(ge=0)] = 1.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    token_noise: Annotated[float, Field(ge=0)] = 0.0

    @property
    def traits(self) -> Traits:
        return super().traits if self.noise_multiplier else super().traits - {Trait.COUNTS_ON_SECRECY}

    def lacks(self) -> str | None:
        if self.noise_multiplier and importlib.util.find_spec("dp_accounting") is None:
            return "epsilon is computed by dp-accounting, which is not installed; pip install 'fcit_ray[privacy]'"
        return None

    def clip(self, updates: Sequence[ClientUpdate]) -> list[ClientUpdate]:
        return [replace(update, delta=clip_to_norm(update.delta, self.clip_norm)) for update in updates]

    def noise(self, delta: Mapping[str, Tensor], updates: Sequence[ClientUpdate], seed: int) -> dict[str, Tensor]:
        if not self.noise_multiplier:
            return dict(delta)
        noised = {}
        for name, value in delta.items():
            num_senders = sum(name in update.delta for update in updates)
            deviation = self.noise_multiplier * self.clip_norm / num_senders
            noised[name] = value + deviation * _gaussian(value.shape, derive_seed(seed, "noise", name))
        return noised

    def spent(self, setting: Setting, rounds: int) -> dict[str, float]:
        """`epsilon` at `dp_delta` after so many rounds; nothing without noise."""
        if not self.noise_multiplier:
            return {}
        sampling_frac = setting.clients_per_round / setting.num_clients
        value = epsilon(
            noise_multiplier=self.noise_multiplier, sampling_frac=sampling_frac, rounds=rounds, delta=self.delta
        )
        return {"epsilon": value, "dp_delta": self.delta}


def epsilon(*, noise_multiplier: float, sampling_frac: float, rounds: int, delta: float) -> float:
    """The epsilon of DP-FedAvg, by Google's `dp-accounting`: Renyi accountant of the subsampled Gaussian mechanism.

    (Mironov, Talwar, Zhang, "Renyi Differential Privacy of the Sampled Gaussian Mechanism", 2019, arXiv 1908.10530.)
    Neighbours differ in one client being there or not. Each round is taken to draw every client with probability
    `sampling_frac` (Poisson). This library draws a fixed number without replacement instead, so the figure is the usual
    approximation and not a bound; a bound (Wang, Balle, Kasiviswanathan, AISTATS 2019, arXiv 1808.00087, for a client
    replaced by another, which moves the mean by 2C / n) is considerably larger.

    Args:
        noise_multiplier: z, above 0.
        sampling_frac: clients per round over clients, at most 1.
        rounds: of the whole run so far; 0 has cost nothing.
        delta: probability with which the promise may fail.

    Raises:
        ModuleNotFoundError: dp-accounting is not installed (the configuration is refused before).
    """
    import dp_accounting
    from dp_accounting import rdp

    if not rounds:
        return 0.0
    # Whole orders: the series for fractional ones does not converge at the large fractions of small federations.
    accountant = rdp.RdpAccountant([*range(2, 65), *range(72, 257, 8), 320, 384, 512, 768, 1024])
    gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(sampling_frac, gaussian), rounds)
    return float(accountant.get_epsilon(delta))


def _gaussian(shape: torch.Size, seed: int) -> Tensor:
    """Standard normal draws of a seed's own, so that they do not depend on the order of names or clients."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def quantised(features: Tensor, bits: int) -> Tensor:
    """Each entry's nearest of 2^bits even levels from -m to m, m the row's largest |x|; float32, of the same shape.

    Of an entry right between two levels, the one of even number (from 0). A row of zeros stays.

    Args:
        features: one token (D,), or several (B, D).
        bits: at least 1.
    """
    largest = features.double().abs().amax(-1, keepdim=True)
    steps = 2**bits - 1
    numbers = torch.round((features.double() / largest.where(largest > 0, 1.0) + 1) / 2 * steps)
    return ((2 * numbers / steps - 1) * largest).float()
