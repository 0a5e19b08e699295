"""What does not cross: which traits of one part of an algorithm bear no other trait, and why.

The axes cross freely but for these rows. A row says: a part with the trait on the left cannot go with the trait on the
right, wherever in the run it is (`never`), or goes only with a part of that axis that has it (`needs`). The sentence is
what the user reads behind the section's name; `{part}` is the part on the left, `{other}` the class on the right.

Of the rows that a part offends the first is told.
"""

from dataclasses import dataclass

from fcit_ray.federated.algorithm import Algorithm
from fcit_ray.federated.traits import Trait


@dataclass(frozen=True)
class Row:
    """One thing that does not cross.

    Attributes:
        part: a part with this trait ...
        other: ... cannot go with this one, or goes with it only.
        why: a sentence for the user.
        axis: where `other` is needed; "" if it is what cannot be.
    """

    part: Trait
    other: Trait
    why: str
    axis: str = ""


def never(part: Trait, other: Trait, why: str) -> Row:
    """A part with the first trait does not go with anything of the second."""
    return Row(part, other, why)


def needs(part: Trait, axis: str, other: Trait, why: str) -> Row:
    """A part with the first trait goes only with a part of the axis that has the second."""
    return Row(part, other, why, axis)


T = Trait
TABLE: tuple[Row, ...] = (
    # --- continual methods
    needs(T.NO_LORA, "lora", T.PLAIN_FACTORS, "it trains no LoRA; lora.name must be factors"),
    never(
        T.ROUTES_ADAPTERS,
        T.ADDS_RESIDUAL,
        "lora.name puts products of factors beside the frozen weights, where no router weighs them",
    ),
    # No weight of the merge reaches what such a rule writes beside the adapters.
    never(
        T.MERGES_ADAPTERS,
        T.ADDS_RESIDUAL,
        "it merges adapters, and this lora rule puts part of what is learned elsewhere",
    ),
    never(
        T.TURNS_A,
        T.FREEZES_A,
        "its l1 turns the A of a stage away from the earlier ones, and this lora rule does not train A",
    ),
    never(
        T.STANDS_ON_EARLIER,
        T.UNEQUAL_RANKS,
        "its clients train on top of the earlier adapters, and one of few ranks would have another base",
    ),
    # --- local rules
    never(
        T.SENDS_VARIATES,
        T.CLIPS,
        "scaffold's control variates travel beside the delta that privacy clips or noises, and give it away",
    ),
    never(
        T.SENDS_VARIATES,
        T.NOISES,
        "scaffold's control variates travel beside the delta that privacy clips or noises, and give it away",
    ),
    needs(
        T.SENDS_VARIATES,
        "robust",
        T.PLAIN_MEAN,
        "scaffold's control variates are a plain mean, through which one client can do what robust prevents",
    ),
    never(
        T.SENDS_VARIATES,
        T.KEEPS_FACTORS,
        "scaffold's control variates would tell the server of factors that this lora rule keeps at the client",
    ),
    # --- server optimisers
    never(
        T.WANTS_EQUAL_CLIENTS,
        T.WEIGHS_BY_SAMPLES,
        "variant openfedllm averages clients alike; set weights: uniform, or choose variant: reddi",
    ),
    # --- LoRA rules: averaged factors and their residual
    never(
        T.CORRECTS_MEAN,
        T.SEVERAL_ADAPTERS,
        "its residual belongs to no adapter, so the method must have a single one",
    ),
    needs(
        T.CORRECTS_MEAN,
        "server",
        T.ADDS_DELTA,
        "its residual fits the mean of the factors, so server.name must be fedavg",
    ),
    needs(
        T.CORRECTS_MEAN,
        "robust",
        T.PLAIN_MEAN,
        "its residual fits the mean of the factors, so robust.name must be mean",
    ),
    never(
        T.CORRECTS_MEAN,
        T.NOISES,
        "a residual of products is not bounded by clipping the factors, so privacy must not add noise",
    ),
    never(
        T.CORRECTS_MEAN,
        T.ANCHORS_VALUES,
        "the method holds the factors to old values while the residual moves the model past it",
    ),
    # --- stacked products
    never(
        T.STACKS_PRODUCTS,
        T.SEVERAL_ADAPTERS,
        "its sum of products belongs to no adapter, so the method must have a single one",
    ),
    needs(
        T.STACKS_PRODUCTS,
        "server",
        T.ADDS_DELTA,
        "its sum of products is added as it is, so server.name must be fedavg",
    ),
    needs(
        T.STACKS_PRODUCTS,
        "robust",
        T.PLAIN_MEAN,
        "the stacked factors are a weighted mean of products, so robust.name must be mean",
    ),
    never(
        T.STACKS_PRODUCTS,
        T.NOISES,
        "a mean of products is not bounded by clipping the factors, so privacy must not add noise",
    ),
    never(
        T.STACKS_PRODUCTS,
        T.ANCHORS_VALUES,
        "the method holds factors to old values that are drawn anew in every round",
    ),
    never(
        T.STACKS_PRODUCTS,
        T.STEERS_VALUES,
        "the local rule remembers something of factors that are drawn anew in every round",
    ),
    # --- the mean product, factored again
    needs(
        T.FACTORS_PRODUCTS,
        "server",
        T.ADDS_DELTA,
        "factors of a product are not moved by parts of their change, so server.name must be fedavg",
    ),
    needs(
        T.FACTORS_PRODUCTS,
        "robust",
        T.PLAIN_MEAN,
        "it factors the weighted mean of products, so robust.name must be mean",
    ),
    never(
        T.FACTORS_PRODUCTS,
        T.NOISES,
        "factors of a mean product are not bounded by clipping, so privacy must not add noise",
    ),
    never(
        T.FACTORS_PRODUCTS,
        T.ANCHORS_VALUES,
        "the method holds factors to old values while their basis changes in every round",
    ),
    never(
        T.FACTORS_PRODUCTS,
        T.STEERS_VALUES,
        "the local rule remembers something of factors whose basis changes in every round",
    ),
    # --- weights and ranks of their own
    needs(
        T.OWN_WEIGHTS,
        "robust",
        T.PLAIN_MEAN,
        "weights: {part.weights} is a weighted mean of its own, so robust.name must be mean",
    ),
    never(
        T.OWN_WEIGHTS,
        T.NOISES,
        "weights: {part.weights} gives some clients more say than noise is meant for, so take samples",
    ),
    never(
        T.UNEQUAL_RANKS,
        T.NOISES,
        "zeros for the ranks that a client lacks change a mean by more than clipping allows; no noise fits",
    ),
    never(
        T.UNEQUAL_RANKS,
        T.ANCHORS_VALUES,
        "the method would pull a client's missing ranks to the values of the server's",
    ),
    never(T.UNEQUAL_RANKS, T.STEERS_VALUES, "the local rule would move the ranks that a client does not have"),
    # --- factors that stay at the client
    never(
        T.KEEPS_FACTORS,
        T.KEEPS_MODELS,
        "the method keeps the global model of a stage, and there is none: every client has its own B",
    ),
    never(
        T.KEEPS_FACTORS,
        T.STEERS_VALUES,
        "the local rule steers clients to one another, and B is to be each client's own",
    ),
    # --- privacy: whatever is not an unweighted mean of clipped deltas has a sensitivity that nobody worked out
    never(
        T.PROMISES_BOUND,
        T.WEIGHS_BY_SAMPLES,
        "dp_fedavg wants `weights: uniform`: the noise is scaled to 1/n of a client's clipped delta, and "
        "in a mean weighted by samples one client may count for more than that",
    ),
    needs(
        T.PROMISES_BOUND,
        "robust",
        T.PLAIN_MEAN,
        "dp_fedavg wants `robust: {{name: mean}}`: the sensitivity of {other} is not C / n",
    ),
    never(
        T.PROMISES_BOUND,
        T.OTHER_COMBINATION,
        "dp_fedavg wants a LoRA rule that averages what clients send, name by name: {other} "
        "multiplies or decomposes factors, which moves more than the clipped delta does",
    ),
    never(
        T.PROMISES_BOUND,
        T.LEARNS_FROM_REPORTS,
        "dp_fedavg clips and noises deltas, and the server of {other} learns from reports too",
    ),
    never(
        T.COUNTS_ON_SECRECY,
        T.KNOWN_SELECTION,
        "epsilon counts on nobody knowing whom a round has drawn, and benchmark.selection=released draws the "
        "same clients whatever the seed; take benchmark.selection=seeded",
    ),
)


def reasons(algorithm: Algorithm) -> dict[str, str]:
    """Why the parts of an algorithm make no sense together: the first reason of each axis that has one."""
    found = {}
    for axis, part in algorithm.parts.items():
        own = part.traits
        offended = (why for row in TABLE if row.part in own and (why := _offence(row, axis, algorithm)))
        if reason := next(offended, None) or _too_few(axis, algorithm) or part.lacks():
            found[axis] = reason
    return found


def _offence(row: Row, axis: str, algorithm: Algorithm) -> str:
    """The sentence of a row that a part of this axis stands on the left of; empty if it is not offended."""
    parts = algorithm.parts
    if row.axis:
        other: object = parts[row.axis] if row.other not in parts[row.axis].traits else None
    else:
        others = (part for name, part in parts.items() if name != axis and row.other in part.traits)
        other = next(others, algorithm if row.other in algorithm.traits else None)
    return "" if other is None else row.why.format(part=parts[axis], other=type(other).__name__)


def _too_few(axis: str, algorithm: Algorithm) -> str:
    needed, keys = algorithm.aggregation.rule.fewest()
    count = algorithm.clients_per_round
    if axis != "robust" or count is None or count >= needed:
        return ""
    return f"with {keys} it compares at least {needed} clients a round; benchmark.clients_per_round is {count}"
