"""Training a translator: Attentune against Marian (transformers), JoeyNMT and OpenNMT-py, of one shape, in one run.

Sources and targets have lengths like captions (4 to 40 tokens), sorted into batches of like length; every
contestant is given the same batches. A step is forward, label-smoothed loss, backward, clipping and AdamW, with dropout
of .1, in float32 and in bf16 under autocast. Rounds are interleaved; the figure is real target tokens a second, the
median over rounds, and the ratio is to the best peer in the same precision.

JoeyNMT and OpenNMT-py name dependencies that their models do not import; a peer that cannot be imported is left out,
and the output says so. One way to have them without touching an environment:

    pip install --no-deps --target peers joeynmt OpenNMT-py pyonmttok pyahocorasick rapidfuzz "importlib_metadata<8"
    pip install --target peers-spacy spacy
    PYTHONPATH=peers:peers-spacy python benchmarks/translation_training.py [--rounds 5] [--threads 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentune.data.batches import IGNORED, MicroBatch
from attentune.kernels.layout import Layout
from attentune.mechanisms import layer
from attentune.models.build import build_encoder_decoder
from attentune.spec.model import FeedForwardSpec, ModelSpec
from attentune.spec.run import OptimizerSpec
from attentune.training.losses import cross_entropy
from attentune.training.optimizers import build_optimizer

VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, DROPOUT, SMOOTHING = 5000, 256, 3, 8, 512, 0.1, 0.1
TOKENS, BATCHES = 2048, 6  # of the longer side in a batch; batches in a round
UNKNOWN, PAD, BEGIN, END = 0, 1, 2, 3
Step = Callable[["Pairs"], Tensor]  # the loss of a batch, ready for backward


@dataclass(frozen=True)
class Pairs:
    """Padded sources [B S], targets behind their beginning [B T] and before their end [B T]."""

    source: Tensor
    target: Tensor
    following: Tensor

    @property
    def tokens(self) -> int:
        return int((self.following != PAD).sum())


@dataclass(frozen=True)
class Contestant:
    name: str
    model: nn.Module
    loss: Step
    update: Callable[[], None]


def batches() -> list[Pairs]:
    """The same for every contestant: rows of like length, `TOKENS` tokens of the longer side together."""
    random = torch.Generator().manual_seed(0)
    lengths = (4 + torch.distributions.Gamma(3.0, 1 / 3.0).sample((4000,)).round().long()).clamp(max=40)
    shift = torch.randint(-2, 3, (4000,), generator=random)
    found = []
    for middle in torch.linspace(600, 3400, BATCHES).long().tolist():
        order = lengths.argsort()
        rows = max(1, TOKENS // (int(lengths[order[middle]]) + 2))
        chosen = order[middle : middle + rows]
        found.append(_padded(lengths[chosen].tolist(), (lengths[chosen] + shift[chosen]).clamp(min=2).tolist(), random))
    return found


def _padded(sources: list[int], targets: list[int], random: torch.Generator) -> Pairs:
    def words(length: int) -> Tensor:
        return torch.randint(4, VOCABULARY, (length,), generator=random)

    def rows(parts: list[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=PAD)

    begin, end = torch.tensor([BEGIN]), torch.tensor([END])
    texts = [words(length) for length in targets]
    return Pairs(
        rows([torch.cat([words(length), end]) for length in sources]),
        rows([torch.cat([begin, text]) for text in texts]),
        rows([torch.cat([text, end]) for text in texts]),
    )


def attentune() -> Contestant:
    own = layer(f"heads={HEADS}, mask=full")
    looking = layer(f"heads={HEADS}, mask=causal, cross=attention(heads={HEADS})")
    around: dict[str, Any] = {
        "vocab_size": VOCABULARY, "width": WIDTH, "depth": LAYERS, "context": 64, "position": "sinusoidal",
        "scale_embeddings": True, "logit_factor": 1.0, "bias": True, "dropout": DROPOUT,
        "feed_forward": FeedForwardSpec(name="relu", hidden=HIDDEN),
    }  # fmt: skip
    spec = ModelSpec(layers=(looking,), encoder=ModelSpec(layers=(own,), **around), share=("embedding",), **around)
    model = build_encoder_decoder(spec, seed=0)

    def loss(pairs: Pairs) -> Tensor:
        layout = Layout.padded(pairs.target != PAD)
        targets = pairs.following.masked_fill(pairs.following == PAD, IGNORED)
        output = model(pairs.target, layout, source=pairs.source, source_layout=Layout.padded(pairs.source != PAD))
        return cross_entropy(output.logits, MicroBatch(pairs.target, targets, layout, 1.0), SMOOTHING)

    optimizer = build_optimizer(model, OptimizerSpec(learning_rate=1e-4))

    def update() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(1.0)
        optimizer.zero_grad()

    return Contestant("attentune", model, loss, update)


def marian() -> Contestant:
    import transformers

    config = transformers.MarianConfig(
        vocab_size=VOCABULARY, decoder_vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=LAYERS,
        decoder_layers=LAYERS, encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=HIDDEN,
        decoder_ffn_dim=HIDDEN, max_position_embeddings=64, activation_function="relu", scale_embedding=True,
        dropout=DROPOUT, pad_token_id=PAD, eos_token_id=END, decoder_start_token_id=BEGIN,
    )  # fmt: skip
    model = transformers.MarianMTModel(config)

    def loss(pairs: Pairs) -> Tensor:
        given = model(
            input_ids=pairs.source,
            attention_mask=(pairs.source != PAD).long(),
            decoder_input_ids=pairs.target,
            decoder_attention_mask=(pairs.target != PAD).long(),
            use_cache=False,
        )
        return smoothed(given.logits, pairs.following)

    return Contestant("transformers Marian", model, loss, usual(model))


def joeynmt() -> Contestant:
    from joeynmt.model import build_model
    from joeynmt.vocabulary import Vocabulary

    special = SimpleNamespace(
        unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>", sep_token=None,
        unk_id=UNKNOWN, pad_id=PAD, bos_id=BEGIN, eos_id=END, sep_id=None, lang_tags=[],
    )  # fmt: skip
    words = Vocabulary([f"w{number}" for number in range(VOCABULARY - 4)], special)
    side = {
        "type": "transformer", "num_layers": LAYERS, "num_heads": HEADS, "hidden_size": WIDTH, "ff_size": HIDDEN,
        "dropout": DROPOUT, "layer_norm": "pre", "activation": "relu",
        "embeddings": {"embedding_dim": WIDTH, "scale": True},
    }  # fmt: skip
    model = build_model({"encoder": side, "decoder": side, "tied_embeddings": True, "tied_softmax": True}, words, words)
    model.loss_function = ("crossentropy", SMOOTHING)

    def loss(pairs: Pairs) -> Tensor:
        seen = pairs.source != PAD
        total: Tensor = model(
            return_type="loss",
            src=pairs.source,
            trg_input=pairs.target,
            trg=pairs.following,
            src_mask=seen.unsqueeze(1),
            src_length=seen.sum(1),
            trg_mask=(pairs.target != PAD).unsqueeze(1),
        )[0]
        return total / pairs.tokens

    return Contestant("JoeyNMT", model, loss, usual(model))


def opennmt() -> Contestant:
    from onmt.decoders.transformer import TransformerDecoder
    from onmt.encoders.transformer import TransformerEncoder
    from onmt.models.model import NMTModel
    from onmt.modules.embeddings import Embeddings

    table = Embeddings(WIDTH, VOCABULARY, PAD, position_encoding=True, dropout=DROPOUT)
    encoder = TransformerEncoder(LAYERS, WIDTH, HEADS, HIDDEN, DROPOUT, DROPOUT, table, 0, 0)
    decoder = TransformerDecoder(
        LAYERS, WIDTH, HEADS, HIDDEN, False, "scaled-dot-flash", DROPOUT, DROPOUT, table, 0, 0, False, False, 0, 0
    )
    model = NMTModel(encoder, decoder)
    weight = table.word_lut.weight  # the head is the table of embeddings, as in the others

    def loss(pairs: Pairs) -> Tensor:
        whole = torch.cat([pairs.target, pairs.following[:, -1:]], 1)[..., None]  # it cuts off the last itself
        states, _ = model(pairs.source[..., None], whole, (pairs.source != PAD).sum(1))
        return smoothed(F.linear(states, weight), pairs.following)

    return Contestant("OpenNMT-py", model, loss, usual(model))


def smoothed(logits: Tensor, following: Tensor) -> Tensor:
    return F.cross_entropy(
        logits.flatten(0, 1).float(), following.flatten(), ignore_index=PAD, label_smoothing=SMOOTHING
    )


def usual(model: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def update() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


def round_of(contestant: Contestant, given: list[Pairs], *, half: bool) -> float:
    """Real target tokens a second."""
    begun = time.perf_counter()
    for pairs in given:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = contestant.loss(pairs)
        loss.backward()
        contestant.update()
    return sum(pairs.tokens for pairs in given) / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    given = batches()
    contestants = []
    for make in (attentune, marian, joeynmt, opennmt):
        try:
            contestants.append(make())
        except ImportError as error:
            print(f"left out: {make.__name__} ({error})")
    for contestant in contestants:
        contestant.model.train()
        size = sum(parameter.numel() for parameter in contestant.model.parameters())
        print(f"{contestant.name:<20} {size:,} parameters")
    rates: dict[str, dict[str, list[float]]] = {}
    for number in range(options.rounds + 1):
        for half in (False, True):
            for contestant in contestants:
                rate = round_of(contestant, given, half=half)
                if number:  # the first round warms up
                    name = "bf16" if half else "fp32"
                    rates.setdefault(name, {}).setdefault(contestant.name, []).append(rate)
    print(f"torch {torch.__version__}, {options.threads} threads, {platform.processor() or platform.machine()}")
    for precision, each in rates.items():
        best = max(statistics.median(held) for name, held in each.items() if name != "attentune")
        print(f"\n{precision:<20} {'target tokens/s':>16} {'best round':>11} {'to best peer':>13}")
        for name, held in each.items():
            middle = statistics.median(held)
            print(f"{name:<20} {middle:>16,.0f} {max(held):>11,.0f} {middle / best:>12.2f}x")
    if options.json is not None:
        options.json.write_text(json.dumps(rates, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
