"""The work of `attentune train`: text to corpus, settings to model, training, and the folder that is left behind."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from attentune.cli.console import activity, known_prompt, print_json
from attentune.cli.loading import pick_device
from attentune.cli.train import CAUSAL, WHOLE, EncoderOptions, ModelOptions, Options
from attentune.cli.words import UsageError
from attentune.data.adopted import language_tokenizer
from attentune.data.corpus import Corpus, load_corpus
from attentune.data.tokenizers import Tokenizer
from attentune.evaluation.cost import parameter_count
from attentune.layers.low_rank import merge_adapters
from attentune.mechanisms import load_plugin, registry
from attentune.models.build import build
from attentune.models.checkpoint import save_model
from attentune.models.storage import atomic_write
from attentune.spec.codec import model_from_data
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec, RunSpec
from attentune.spec.start import StartSpec
from attentune.tasks.task import Stack
from attentune.training.loop import train
from attentune.training.result import TrainResult
from attentune.training.trackers import JsonlTracker, TensorBoardTracker

PROMPT_TOKENS = 64  # in which a word is looked for
LOOKING = ("heads=4, position=rotary, mask=causal, cross=attention(heads=4)",)


def train_and_save(options: Options) -> None:
    """Train as `options` say; `out` then holds `checkpoints/`, `tensorboard/`, `log.jsonl`, `model/`, `result.json`."""
    if options.plugin is not None:
        load_plugin(options.plugin, registry)
    device = pick_device(options.device)
    run = RunSpec(**{name: getattr(options, name) for name in RunSpec.model_fields})
    start = None
    if options.start != StartSpec():
        from attentune.cli.starting import read_language_start

        start = read_language_start(options, run)
    corpus = read_corpus(
        run.data, context=run.context, tokenizer=None if start is None else language_tokenizer(start.origin.folder)
    )
    if start is None:
        spec = model_spec(options.model, vocab_size=corpus.vocab_size, context=run.context)
        model = build(spec, seed=run.seed)
    else:
        spec = start.spec.replace(vocab_size=corpus.vocab_size, context=run.context)
        model = build(spec, seed=run.seed)
        start.beginning()(model)
    model.to(device)

    with activity("training") as report:
        result = train(
            model,
            corpus,
            run,
            folder=options.out / "checkpoints",
            resume=not options.restart,
            trackers=(JsonlTracker(options.out / "log.jsonl"), TensorBoardTracker(options.out / "tensorboard")),
            progress=lambda step, steps, loss, speed: report(step, steps, f"loss {loss:.3f}, {speed:,.0f} tokens/s"),
        )

    merge_adapters(model)
    folder = options.out / "model"
    summary = _summary(options.out, folder, model, corpus, result)
    if start is not None:
        summary["from"] = start.told()
    save_model(
        folder, model, tokenizer=corpus.tokenizer, extra={"run": run.model_dump(mode="json"), "score": summary["score"]}
    )
    atomic_write(options.out / "result.json", json.dumps(summary, indent=2) + "\n")
    if options.json_:
        print_json(summary)
    else:
        print(_shown(summary, spec, corpus))


def read_corpus(data: DataSpec, *, context: int, tokenizer: Tokenizer | None = None) -> Corpus:
    """The corpus that `data` names, with its progress shown; a `tokenizer` stands in for the one that it asks for."""
    with activity("preparing text") as report:
        return load_corpus(
            data,
            context=context,
            tokenizer=tokenizer,
            progress=lambda stage, done, total: report(done, total, stage),
        )


def model_spec(options: ModelOptions, *, vocab_size: int, context: int, stack: Stack = "decoder") -> ModelSpec:
    """The model that `options` describe, for a vocabulary and a context.

    Layers that were left out are causal in a decoder, see everything in an encoder, and look at the encoder in a
    decoder beside one.
    """
    fields = {**options.model_dump(), "vocab_size": vocab_size, "context": context}
    if options.halting.weight is None:
        fields["halting"] = None
    fields["ngrams"] = options.ngrams.spec()
    encoder = fields.pop("encoder")
    if "layers" not in options.model_fields_set:
        fields["layers"] = {"decoder": CAUSAL, "encoder": WHOLE, "encoder-decoder": LOOKING}[stack]
    if stack != "encoder-decoder":
        if options.encoder != EncoderOptions():
            raise UsageError("model.encoder is for tasks from sequence to sequence; this model has no second stack")
        if "embedding" in options.share:
            raise UsageError("share=embedding is for an encoder and its decoder; this model has no second stack")
        return model_from_data(fields, registry)
    own = {**fields, "depth": encoder["depth"] or options.depth, "layers": encoder["layers"]}
    own["share"] = [name for name in options.share if name != "embedding"]
    fields["share"], fields["ngrams"] = own["share"], None
    whole = model_from_data(fields, registry).replace(encoder=model_from_data(own, registry))
    return whole.replace(share=options.share)


def _summary(out: Path, folder: Path, model: nn.Module, corpus: Corpus, result: TrainResult) -> dict[str, Any]:
    warnings = sorted(
        {
            f"{kind} gradients: {layer}"
            for record in result.diagnostics[-1:]
            for kind in ("vanishing", "exploding")
            for layer in getattr(record, kind)
        }
    )
    return {
        "model": str(folder),
        "out": str(out),
        "parameters": parameter_count(model),
        "text": corpus.source,
        "steps": len(result.losses),
        "loss": result.losses[-1],
        "score": asdict(result.final) if result.final is not None else None,
        "evaluations": [asdict(evaluation) for evaluation in result.evaluations],
        "tokens_per_second": result.tokens_per_second,
        "seconds": result.seconds,
        "peak_bytes": result.peak_bytes,
        "diagnostics": warnings,
    }


def _shown(summary: dict[str, Any], spec: ModelSpec, corpus: Corpus) -> str:
    lines = [f"{'from':<11} {summary['from']}"] if "from" in summary else []
    if score := summary["score"]:
        lines.append(
            f"validation  {score['nats_per_token']:.4f} nats/token, {score['bits_per_character']:.4f} bits/character, "
            f"{score['bits_per_byte']:.4f} bits/byte, perplexity {score['perplexity']:.3f} ({score['tokens']:,} tokens)"
        )
        if (layers := score["layers_per_token"]) is not None:
            lines.append(f"depth       {layers:.2f} of {spec.depth} layers a token; the others were not computed")
    speed = f"{summary['tokens_per_second']:,.0f} tokens/s, {summary['parameters']:,} parameters"
    lines += [
        f"training    {summary['steps']:,} steps in {summary['seconds']:.1f} s, {speed}",
        *(f"look at     {warning}" for warning in summary["diagnostics"]),
        f"model       {summary['model']}",
    ]
    if all(
        attention.mask.lookahead is not None for attention in spec.attentions
    ):  # else no text can be written with it
        start = corpus.tokenizer.decode(corpus.validation.ids[:PROMPT_TOKENS].tolist())
        lines.append(f"continue    {shlex.join(['attentune', 'generate', summary['model'], *known_prompt(start)])}")
    return "\n".join(lines)
