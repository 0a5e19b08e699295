"""What the parts of an algorithm say of themselves, so that one table can tell what does not cross.

A part (a continual method, a local rule, a server optimiser, a LoRA rule, a rule over clients, a privacy rule) declares
traits; `crossing.py` holds which of them do not go together. Nobody looks at anybody's class. A class that overrides a
hook which says something of it must declare the trait that goes with the hook, or it is refused as it is defined: a
method of a user's own cannot be crossed with what it does not bear for want of a word.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar


class Trait(Enum):
    """One thing that a part does, in words that go on from the part's name."""

    # continual methods
    KEEPS_MODELS = "keeps something of the global model at the end of a stage (a teacher, an anchor)"
    ANCHORS_VALUES = "holds parameters to old values by statistics that its clients report"
    LEARNS_FROM_REPORTS = "has a server that learns from what clients report beside the delta"
    SEVERAL_ADAPTERS = "has more than one adapter"
    NO_LORA = "trains no LoRA"
    ROUTES_ADAPTERS = "has a router that weighs the adapters of a layer, token by token"
    MERGES_ADAPTERS = "answers with a merge of adapters"
    TURNS_A = "turns the A of a LoRA by its loss"
    STANDS_ON_EARLIER = "has clients that train on top of the earlier adapters"

    # local rules
    STEERS_VALUES = "has a server that remembers something of every parameter from round to round"
    SENDS_VARIATES = "has clients that report a linear function of their delta, of which the server takes the mean"

    # server optimisers
    ADDS_DELTA = "adds the combined delta as it is"
    WANTS_EQUAL_CLIENTS = "takes the combined delta for an unweighted mean"

    # LoRA rules
    PLAIN_FACTORS = "trains and sends both factors and averages each on its own"
    OTHER_COMBINATION = "combines factors otherwise than by one rule over clients, name by name"
    ADDS_RESIDUAL = "puts part of what is learned into a matrix beside the frozen weights, where no gate reaches it"
    CORRECTS_MEAN = "adds to the frozen weights what the mean of the factors lacks"
    STACKS_PRODUCTS = "adds the sum of the clients' products to the frozen weights and draws the factors anew"
    FACTORS_PRODUCTS = "factors the mean of the clients' products anew in every round"
    OWN_WEIGHTS = "weighs clients by a rule of its own"
    UNEQUAL_RANKS = "has clients of fewer ranks than the server"
    KEEPS_FACTORS = "leaves a factor at its client, so that there is no global model"
    FREEZES_A = "does not train A"

    # rules over clients
    PLAIN_MEAN = "is the weighted mean"

    # privacy rules
    CLIPS = "bounds what one client's delta can change"
    NOISES = "adds noise to the combined delta"
    PROMISES_BOUND = "scales its noise to what one clipped delta can move in an unweighted mean"
    COUNTS_ON_SECRECY = "computes an epsilon that counts on nobody knowing whom a round has drawn"

    # the run itself
    WEIGHS_BY_SAMPLES = "weighs a client by its number of samples"
    KNOWN_SELECTION = "draws the same clients whatever its seed"


Traits = frozenset[Trait]
Implied = Mapping[tuple[str, ...], Trait]
Promised = Mapping[Trait, tuple[str, ...]]


class Part:
    """Base of the six kinds of parts.

    Attributes:
        declares: what objects of the class may do; `traits` says what one of them does.
        implied: the traits that go with hooks: a class that overrides all hooks of a key must declare its trait.
        promised: what is true of a class only while a hook is as the class that declares it has it: one that
            overrides the hook again has to say anew what it declares.
    """

    declares: ClassVar[Traits] = frozenset()
    implied: ClassVar[Implied] = {}
    promised: ClassVar[Promised] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for hooks, trait in cls.implied.items():
            if trait not in cls.declares and all(cls.overrides(hook) for hook in hooks):
                raise TypeError(
                    f"{cls.__name__} overrides {_listed(hooks)}, as a part does that {trait.value}. It has to say so, "
                    "for others to see whether they go together; import Trait from fcit_ray.federated.traits, and in "
                    "the class: "
                    f"declares = {_inherited(cls)}frozenset({{Trait.{trait.name}}}). If that is not so after all, let "
                    "the property `traits` leave it out"
                )
        own = vars(cls)
        for trait, hooks in cls.promised.items():
            again = [hook for hook in hooks if hook in own]
            if again and trait in cls.declares and "declares" not in own:
                raise TypeError(
                    f"{cls.__name__} overrides {_listed(again)} of a class that {trait.value}. Say whether that is "
                    f"still so; in the class: declares = frozenset({{Trait.{trait.name}}}), or without it"
                )

    @classmethod
    def overrides(cls, hook: str) -> bool:
        """Whether the class has this hook of its own, and not as all parts of its kind have it by default."""
        kind = next(c for c in reversed(cls.__mro__) if issubclass(c, Part) and c is not Part)
        return getattr(cls, hook) is not getattr(kind, hook)

    @property
    def traits(self) -> Traits:
        """What this part does, with its hyper-parameters."""
        return self.declares

    def lacks(self) -> str | None:
        """What this part needs of the machine and does not find there, or None."""
        return None


def _listed(hooks: tuple[str, ...] | list[str]) -> str:
    return " and ".join(f"`{hook}`" for hook in hooks)


def _inherited(cls: type[Part]) -> str:
    base = cls.__mro__[1]
    return f"{base.__name__}.declares | " if getattr(base, "declares", None) else ""
