"""What one worker's memory is made of: the base, what is trained, and what a step keeps for its backward pass.

Everything follows from the shapes of a model on the device `meta`, so no weight is read. The counts of activations are
those of a decoder of RMS norms, rotary attention and a gated FFN under autocast (Llama, Qwen, Gemma, Mistral), with the
base frozen: a linear layer whose weight is frozen keeps nothing of its input. A test holds them to what autograd saves.

Legend: T tokens of a batch (B samples of L), d width, f width of the FFN, h attention heads, H and G numbers of all
query and all key heads of a token, V vocabulary, P positions with logits, e bytes of a computed number (2 in bfloat16).
"""

from dataclasses import asdict, dataclass

from fcit_ray.models.quantize import BYTES_A_WEIGHT
from fcit_ray.planning.shapes import FLOAT, Shapes

CONTEXT_BYTES = 1.0e9
"""Assumed: what a CUDA context and its libraries' workspaces take."""
FRAGMENTS = 0.05
"""Assumed: share of the activations that the allocator cannot use."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a worker is asked to do; the choices of a configuration that memory depends on.

    Attributes:
        batch: B, records of a training step that are in memory together.
        tokens: L, tokens of the longest record.
        tiles: of a record's pictures, or patches where the model takes these (see `Shapes.tower_tokens`).
        answer_tokens: positions of a sample with logits.
        trained: numbers of the LoRA factors, projector and all else that a client trains.
        held: numbers of all adapters, projector and method's own parameters on the device.
        packed: numbers of the inference adapter.
        told: bytes of what the server tells a client (a teacher, a Fisher).
        rank: of the adapters that a client trains, together.
        frozen_rank: of the adapters beside them in its forward pass.
        dropout: whether LoRA inputs meet dropout.
        projector: whether the projector is trained.
        checkpointing: whether layers are computed twice.
        half: bfloat16 instead of float32.
        four_bit: whether the decoder's linear layers are.
        attention: `sdpa`, `flash_attention_2` or `eager`.
        answer_batch: questions answered together.
        new_tokens: length limit of an answer.
        cuda: on a GPU; torch's dropout keeps bytes there and floats on a CPU.
        in_pieces: whether a step is several of these batches, whose gradients are added.
        padded: whether a batch's records differ in length, so that a mask is needed.
    """

    batch: int
    tokens: int
    answer_tokens: int
    trained: int
    held: int
    packed: int
    told: int = 0
    rank: int
    frozen_rank: int = 0
    dropout: bool
    projector: bool = True
    checkpointing: bool = False
    half: bool = True
    four_bit: bool = False
    attention: str = "sdpa"
    answer_batch: int = 1
    new_tokens: int = 0
    cuda: bool = True
    padded: bool = True
    tiles: float = 1.0
    in_pieces: bool = False


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one worker, by what they are for. Training and answering do not happen at once.

    Attributes:
        base: frozen weights.
        adapters: all adapters and the projector, and the inference adapter once it is packed.
        told: what the server tells a client.
        gradients: of what is trained.
        moments: AdamW's two.
        activations: kept for the backward pass.
        logits: of the answers and what the loss makes of them.
        workspace: the largest temporary values of a step.
        cache: keys and values while answering.
        context: assumed, see `CONTEXT_BYTES`.
    """

    base: float
    adapters: float
    told: float
    gradients: float
    moments: float
    activations: float
    logits: float
    workspace: float
    cache: float
    context: float

    @property
    def training(self) -> float:
        return sum(asdict(self).values()) - self.cache

    @property
    def answering(self) -> float:
        return self.base + self.adapters + self.cache + self.context

    @property
    def total(self) -> float:
        return max(self.training, self.answering)


def layer_bytes(shapes: Shapes, load: Load) -> float:
    """What autograd keeps of one decoder layer for the whole batch.

    Per token: of the two norms the input in float32 and its root mean square, 2 (4 d + 4); of attention queries,
    keys, values and result, e (2 H + 2 G), with the softmax's normaliser 4 h and, in a padded batch under SDPA, the
    mask e L; of the FFN the gate before and after its activation and the other half, 3 e f; of each adapted layer of n
    inputs `lora_bytes`.
    """
    e = 2 if load.half else 4
    queries = shapes.heads * shapes.head_dim
    # A mask makes SDPA repeat shared keys and values for every head.
    repeated = load.attention == "eager" or (load.attention == "sdpa" and load.padded)
    keys = queries if repeated else shapes.key_heads * shapes.head_dim
    norms = 2 * (4 * shapes.width + 4)
    if load.attention == "eager":
        weights = shapes.heads * load.tokens * (4 + (e if load.half else 0))
        attention = e * (queries + 2 * keys) + weights
    else:
        mask = e * load.tokens if load.attention == "sdpa" and load.padded else 0
        attention = e * (2 * queries + 2 * keys) + 4 * shapes.heads + mask
    ffn = 3 * e * shapes.ffn
    return load.batch * load.tokens * (norms + attention + ffn + lora_bytes(shapes, load))


def lora_bytes(shapes: Shapes, load: Load) -> float:
    """What the LoRAs of one decoder layer keep of a token.

    Of n inputs the trained A keeps its input, e n, and B keeps its own, e r. Dropout keeps its mask, n bytes on a GPU
    and 4 n on a CPU. Without dropout and without a cast, layers that share an input share what is kept; of equal n
    that is taken for the same input (gate and up).
    """
    e = 2 if load.half else 4
    mask = (1 if load.cuda else 4) if load.dropout else 0
    inputs = [size for size, _ in shapes.adapted]
    share = load.half is False and not load.dropout
    kept = 0.0
    for size in set(inputs):
        count = 1.0 if share else inputs.count(size) / shapes.layers
        kept += count * size * (mask + (e if load.rank else 0))
    return kept + e * (load.rank + load.frozen_rank) * len(inputs) / shapes.layers


def activation_bytes(shapes: Shapes, load: Load) -> float:
    """What autograd keeps of a step, logits left out.

    Without checkpointing every layer's `layer_bytes`; with it every layer's input, e d a token, and one layer's inside,
    which is computed again when its turn comes. In both the last norm, 4 d + 4 a token, and of a projector that is
    trained (two layers with an activation between) its input and both sides of the activation, for each picture's
    tokens; and, in bfloat16, the copies of the float32 parameters that take part.
    """
    e = 2 if load.half else 4
    tokens = load.batch * load.tokens
    layer = layer_bytes(shapes, load)
    kept = shapes.layers * e * shapes.width * tokens + layer if load.checkpointing else shapes.layers * layer
    return kept + rest_bytes(shapes, load)


def rest_bytes(shapes: Shapes, load: Load) -> float:
    """Of `activation_bytes` what lies outside the decoder's layers."""
    e = 2 if load.half else 4
    norm = load.batch * load.tokens * (4 * shapes.width + 4)
    pictures = load.batch * load.tiles * shapes.tower_tokens
    projector = pictures * e * (shapes.tower_width + 2 * shapes.width) if load.projector else 0
    copies = 2 * load.trained if load.half else 0
    return norm + projector + copies


def memory(shapes: Shapes, load: Load) -> Memory:
    """Bytes of one worker."""
    e = 2 if load.half else 4
    tokens, positions = load.batch * load.tokens, load.batch * load.answer_tokens
    frozen = shapes.language + shapes.vision
    base: float = e * frozen
    if load.four_bit:
        base -= (e - BYTES_A_WEIGHT) * shapes.linear
    # The widest layer's values: LoRA's input in float32 before and after dropout, and their gradients in half.
    widest = max((size for size, _ in shapes.adapted), default=shapes.ffn)
    # What the tower hands on lives as long as the language model's forward pass.
    tower = load.batch * load.tiles * shapes.tower_tokens * shapes.tower_width * FLOAT * shapes.tower_kept
    activations = activation_bytes(shapes, load)
    cache = load.answer_batch * (load.tokens + load.new_tokens) * 2 * shapes.layers * e
    return Memory(
        base=base,
        adapters=FLOAT * (load.held + load.packed),
        told=load.told,
        # Those of a step so far, and those of the micro-batch that comes to them.
        gradients=(2 if load.in_pieces else 1) * FLOAT * load.trained,
        moments=2 * FLOAT * load.trained,
        activations=activations * (1 + FRAGMENTS if load.cuda else 1),
        # In the loss: logits as computed, in float32, and their logarithms of softmax, which the backward pass keeps.
        logits=positions * shapes.vocabulary * (e + 2 * FLOAT),
        workspace=tokens * widest * (2 * FLOAT + 2 * e) + tower,
        cache=cache * shapes.key_heads * shapes.head_dim + load.answer_batch * load.tokens * 3 * e * shapes.ffn,
        context=CONTEXT_BYTES if load.cuda else 0.0,
    )
