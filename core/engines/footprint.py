"""What training takes of a GPU's memory, term by term, in bytes: for choosing an engine before anything is started.

Each term is a formula that a test holds against a small run. The sums for 8B and 70B are in docs/scale.md.
"""

from dataclasses import dataclass

from core.config import Dtype, EngineKind, Offload

FP32, BF16 = 4, 2
LOGITS = 2**26
"""Logits in memory at once (`core.models.logprobs.CHUNK`)."""
ZERO_BUCKET = 500_000_000
"""Gradients that DeepSpeed collects before it reduces them (its default of `reduce_bucket_size`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoder:
    """The sizes of a decoder of Llama's kind: gated MLPs, grouped queries, no biases, a head that shares no weights with the embeddings.

    >>> Decoder(hidden=8, intermediate=16, num_layers=2, num_heads=2, num_kv_heads=1, head_size=4, vocabulary=10).layer
    592
    """

    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocabulary: int

    @property
    def matrices(self) -> int:
        """Weights in the matrices of a layer."""
        attention = 2 * self.hidden * self.head_size * (self.num_heads + self.num_kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def layer(self) -> int:
        """Weights in a layer: matrices and two norms."""
        return self.matrices + 2 * self.hidden

    @property
    def embedding(self) -> int:
        """Weights of the embeddings; as many as of a language model's head."""
        return self.vocabulary * self.hidden

    @property
    def reward_model(self) -> int:
        """Weights of a reward model, which is also what a critic has: embeddings, layers, a norm, and a scalar head."""
        return self.embedding + self.num_layers * self.layer + 2 * self.hidden

    @property
    def policy(self) -> int:
        """Weights of a language model."""
        return self.reward_model - self.hidden + self.embedding


LLAMA_8B = Decoder(hidden=4096, intermediate=14336, num_layers=32, num_heads=32, num_kv_heads=8, head_size=128, vocabulary=128256)
LLAMA_70B = Decoder(hidden=8192, intermediate=28672, num_layers=80, num_heads=64, num_kv_heads=8, head_size=128, vocabulary=128256)


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How training is spread: the engine, the number of processes (one a GPU), the format of products, and what is offloaded."""

    kind: EngineKind
    processes: int
    dtype: Dtype = Dtype.bf16
    offload: Offload = Offload.none
    reduce_once: bool = False

    @property
    def shards_weights(self) -> bool:
        """Whether no process holds all weights."""
        return self.kind in (EngineKind.fsdp2, EngineKind.zero3)

    @property
    def is_zero(self) -> bool:
        """Whether DeepSpeed runs it."""
        return self.kind in (EngineKind.zero2, EngineKind.zero3)

    @property
    def product(self) -> int:
        """Bytes of a number in matrix products."""
        return BF16 if self.dtype == Dtype.bf16 else FP32

    def share(self, num: int, *, sharded: bool) -> float:
        """How many of `num` numbers one process holds."""
        return num / self.processes if sharded else num


def weights(num: int, way: Way) -> float:
    """`num` trained weights, in fp32."""
    return FP32 * way.share(num, sharded=way.shards_weights)


def gradients(num: int, way: Way) -> float:
    """Their gradients between two passes of a step, in fp32. DDP keeps them a second time, in the buckets that it reduces."""
    if way.kind == EngineKind.fsdp2 and way.reduce_once:
        return FP32 * (num + num / way.processes)
    copies = 2 if way.kind == EngineKind.ddp else 1
    return copies * FP32 * way.share(num, sharded=way.shards_weights or way.is_zero)


def optimizer(num: int, way: Way) -> float:
    """AdamW's two moments, in fp32; under ZeRO with a copy of the weights that the update is computed on."""
    copies = 3 if way.is_zero else 2
    return copies * FP32 * way.share(num, sharded=way.shards_weights or way.is_zero)


def reference(decoder: Decoder, way: Way) -> float:
    """The reference policy, held as what is drawn from."""
    return drawn_from(decoder, way) / (way.processes if way.shards_weights else 1)


def drawn_from(decoder: Decoder, way: Way) -> float:
    """A whole policy that is not trained: matrices in the format of products, embeddings, head and norms in fp32."""
    matrices = decoder.num_layers * decoder.matrices
    return way.product * matrices + FP32 * (decoder.policy - matrices)


def gathered(decoder: Decoder, way: Way, *, num_rest: int, at_once: int = 2) -> float:
    """What is whole at most while it is used: what is in no layer, such as heads and norms (`num_rest` weights), in fp32, and `at_once`
    layers in the format of products, or the embeddings in fp32. Engines that do not shard hold copies for products in bf16 instead.
    """
    if not way.shards_weights:
        return BF16 * decoder.num_layers * decoder.matrices if way.dtype == Dtype.bf16 else 0
    layers, embedding = at_once * way.product * decoder.layer, FP32 * decoder.embedding
    both = layers + embedding if way.offload == Offload.all else max(layers, embedding)
    return FP32 * num_rest + both


def passing_gradients(decoder: Decoder, way: Way) -> float:
    """Gradients on their way to the processes that keep them: a layer's, in the format of products and in fp32; or ZeRO's bucket."""
    if way.is_zero:
        return FP32 * ZERO_BUCKET
    return (way.product + FP32) * decoder.layer if way.shards_weights else 0


def activations(decoder: Decoder, num_tokens: int, way: Way, *, recompute: bool) -> float:
    """What a pass over `num_tokens` tokens keeps for the backward pass; with `recompute` (gradient_checkpointing) the inputs of the
    layers, and one layer's own.
    """
    product, heads = way.product, decoder.head_size * (decoder.num_heads + 2 * decoder.num_kv_heads)
    # Of two norms the inputs and the normalised values, in fp32; their outputs for five products, for each of which autocast makes a copy.
    norms = (2 * 2 * FP32 + (5 if way.dtype == Dtype.bf16 else 2) * product) * decoder.hidden
    # Queries, keys and values, and the output, by heads and for the last product.
    attention = product * (heads + 2 * decoder.head_size * decoder.num_heads)
    # Gate, its activation, the other half, and their product.
    mlp = 4 * product * decoder.intermediate
    layer = norms + attention + mlp
    kept = FP32 * decoder.hidden * decoder.num_layers + layer if recompute else layer * decoder.num_layers
    # Once for all layers: the last norm, and the angles of the rotation.
    return num_tokens * (kept + 2 * FP32 * (decoder.hidden + decoder.head_size))


def kv_cache(decoder: Decoder, num_tokens: int, num_bytes: int = BF16) -> float:
    """Keys and values of `num_tokens` tokens in all, prompts and answers."""
    return 2 * num_bytes * decoder.num_layers * decoder.num_kv_heads * decoder.head_size * num_tokens


def logits(decoder: Decoder, num_tokens: int) -> float:
    """Logits of a chunk of tokens and what is made of them, in fp32: five arrays at the fullest moment, in the backward pass."""
    return 5 * FP32 * min(num_tokens * decoder.vocabulary, LOGITS)
