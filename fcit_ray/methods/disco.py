"""DISCO: Dynamic knowledge organisation and subspace selective activation.

Source: Guo, Zeng, Zhu, Liu, Wang, Xu, Zhang, Liu, "Federated Continual Instruction Tuning", ICCV 2025,
arXiv 2503.12897, https://github.com/Ghy0501/FCIT.

The bank's K adapters are the paper's subspaces. A client's identity token is the mean frozen text feature of its
instructions. Training (dynamic knowledge organisation): the server matches it to the global tokens by cosine
similarity; a match trains that subspace, others open new ones. Inference (subspace selective activation): each
sample mixes the subspaces by a softmax over its similarities to their tokens.

The paper's ablations: `activation` weighs the subspaces otherwise, and `model.identity` of the configuration takes the
features from the pictures, or from both. It names the activations without formulas; those of `gate` are our reading.

What differs from the released code, on purpose:
* `assign`: one subspace per client and round, from the client's mean feature; there, every micro-batch of a stage's
  first round chooses anew, the last one is recorded, and the other batches' work is lost. The rule here holds in every
  round; there, later rounds reuse the clusters of the first by the client's position in the selection.
* `assign`: a client belongs to exactly one group; there, one already claimed can also open another, and is counted
  twice.
* `gate`: of each sample; there, of the batch mean.
* `absorb`: a token is the running mean over all samples seen, (M t + sum n f) / (M + sum n); there, a misplaced
  bracket divides only part of the sum, and counts are kept in bfloat16, which rounds beyond 256.
* the projector's own learning rate reaches the optimizer; there, it is declared and never used.

Legend: B samples, C clients, D features, K adapters, U subspaces opened so far (U <= K).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from fcit_ray.federated.gates import ConstantGate, PortableGate, SimilarityGate
from fcit_ray.federated.method import Method
from fcit_ray.methods.similarity import cosines, softmax_weights
from fcit_ray.types import Assignment, Client, ClientUpdate, Params, Setting, Tree


@dataclass(frozen=True, kw_only=True)
class Disco(Method):
    """DISCO's hyper-parameters; the defaults are the paper's.

    Attributes:
        num_subspaces: T, subspaces that the total rank is shared out over. With one, DISCO is Finetune.
        threshold: tau, cosine similarity from which an identity token counts as known.
        temperature: epsilon of the softmax over similarities; towards 0 only the nearest subspace answers. Of no
            account under any other activation.
        activation: how a sample weighs the opened subspaces, from its similarities to their tokens: `softmax` of them
            (the paper's choice); `argmax`, the nearest alone; `cosine`, as they are, so neither summing to one nor
            always positive: a token that points away from the sample subtracts its subspace; `concatenation`, all one.
        min_group_frac: a lone unmatched client with less than this share of the round's samples joins the nearest
            group instead of opening a subspace.
    """

    reads_deltas = False

    num_subspaces: Annotated[int, Field(ge=1)] = 8
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.9
    temperature: Annotated[float, Field(gt=0)] = 0.05
    activation: Literal["softmax", "argmax", "cosine", "concatenation"] = "softmax"
    min_group_frac: Annotated[float, Field(ge=0, lt=1)] = 1e-3

    def num_adapters(self, setting: Setting) -> int:
        return self.num_subspaces

    def init(self, params: Params, setting: Setting) -> Tree:
        """No token yet: `tokens` (U, D) and `mass`, samples seen by each, (U,)."""
        return {"tokens": torch.zeros(0, 0), "mass": torch.zeros(0, dtype=torch.float64)}

    def assign(self, knowledge: Tree, stage: int, clients: Sequence[Client]) -> list[Assignment]:
        """Match each client to a global token, or group the unmatched and open a subspace for each group."""
        features = [client.feature for client in clients]
        tokens, unopened = list(knowledge["tokens"]), _unopened(knowledge)
        subspace: dict[int, int] = {}  # position in the selection -> subspace
        for position, feature in enumerate(features):
            if tokens:
                similarity = _cosine(feature, tokens)  # (U,)
                similarity[unopened] = -torch.inf
                best = int(similarity.argmax())
                if similarity[best] >= self.threshold:
                    subspace[position] = best
        for group in self._group([p for p in range(len(clients)) if p not in subspace], clients):
            token = _mean_feature([clients[position] for position in group])
            if unopened:
                first = unopened.pop(0)
                subspace.update(dict.fromkeys(group, first))
                tokens[first] = token
            elif len(tokens) < self.num_subspaces:
                subspace.update(dict.fromkeys(group, len(tokens)))
                tokens.append(token)
            else:
                subspace.update({p: int(_cosine(features[p], tokens).argmax()) for p in group})
        return [Assignment(train=(subspace[position],)) for position in range(len(clients))]

    def _group(self, positions: list[int], clients: Sequence[Client]) -> list[list[int]]:
        """Greedy in the order of selection: the first client left takes all that resemble it."""
        groups: list[list[int]] = []
        left = list(positions)
        while left:
            similarity = _cosine(clients[left[0]].feature, [clients[p].feature for p in left])
            group = [p for p, s in zip(left, similarity, strict=True) if s >= self.threshold or p == left[0]]
            left = [p for p in left if p not in group]
            groups.append(group)
        total = sum(client.num_examples for client in clients)
        small = [g for g in groups if len(g) == 1 and clients[g[0]].num_examples < self.min_group_frac * total]
        kept = [g for g in groups if g not in small]
        if not kept:
            return groups
        for (position,) in small:
            tokens = [_mean_feature([clients[p] for p in group]) for group in kept]
            kept[int(_cosine(clients[position].feature, tokens).argmax())].append(position)
        return kept

    def absorb(self, knowledge: Tree, updates: Sequence[ClientUpdate]) -> Tree:
        """Move the tokens along. (Every subspace is averaged over its own clients, as only they send it.)"""
        tokens, mass = list(knowledge["tokens"]), knowledge["mass"].tolist()
        for index in sorted({update.assignment.train[0] for update in updates}):
            clients = [update.client for update in updates if update.assignment.train[0] == index]
            # More than one where the clients that were to open one before it are missing. That one keeps a token of
            # zeros, like nothing, until `assign` lets others open it; its adapter adds nothing yet.
            while index >= len(tokens):
                tokens.append(torch.zeros_like(clients[0].feature))
                mass.append(0.0)
            samples = float(sum(client.num_examples for client in clients))
            mean = _mean_feature(clients).double()
            tokens[index] = ((mass[index] * tokens[index].double() + samples * mean) / (mass[index] + samples)).float()
            mass[index] += samples
        return {"tokens": torch.stack(tokens), "mass": torch.tensor(mass, dtype=torch.float64)}

    def gate(self, knowledge: Tree, features: Tensor, num_adapters: int) -> Tensor | None:
        """softmax(cos(f, token) / epsilon), or as `activation` says, over the opened subspaces; the others weigh 0."""
        tokens = knowledge["tokens"]  # (U, D)
        if not len(tokens):
            return None
        weights = self._activate(cosines(features, tokens))  # (B, U)
        return torch.nn.functional.pad(weights, (0, num_adapters - len(tokens)))  # (B, K)

    def portable_gate(
        self, params: Params, knowledge: Tree, layers: Sequence[str], num_adapters: int
    ) -> PortableGate | None:
        tokens = knowledge["tokens"]
        if not len(tokens):
            return None
        if self.activation == "concatenation":
            return ConstantGate((1.0,) * len(tokens) + (0.0,) * (num_adapters - len(tokens)))
        return SimilarityGate(tokens, self.activation, self.temperature)

    def _activate(self, similarity: Tensor) -> Tensor:
        if self.activation == "argmax":  # of equally near ones the first
            return torch.nn.functional.one_hot(similarity.argmax(1), similarity.shape[1]).float()
        if self.activation == "cosine":
            return similarity
        if self.activation == "concatenation":
            return torch.ones_like(similarity)
        return softmax_weights(similarity, self.temperature)


def _unopened(knowledge: Tree) -> list[int]:
    """Subspaces that nobody has trained though later ones were: those who were to are missing from their round."""
    return [index for index, mass in enumerate(knowledge["mass"].tolist()) if not mass]


def _cosine(feature: Tensor, tokens: Sequence[Tensor]) -> Tensor:
    """Similarity of one feature (D,) to each token, (len(tokens),)."""
    return normalize(torch.stack(list(tokens)), dim=1) @ normalize(feature, dim=0)


def _mean_feature(clients: Sequence[Client]) -> Tensor:
    """Sample-weighted mean identity token, (D,), summed in float64."""
    total = sum(client.num_examples for client in clients)
    weighted = [client.feature.double() * client.num_examples for client in clients]
    return (torch.stack(weighted).sum(0) / total).float()
