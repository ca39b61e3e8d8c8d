"""The work of `attentune evaluate`: a text in the model's own tokens, and its score."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from attentune.cli.console import activity, print_json
from attentune.cli.evaluate import Options
from attentune.cli.loading import load
from attentune.data.builtin import NAME, builtin_text
from attentune.data.corpus import split_documents, tokenize
from attentune.data.files import read_documents
from attentune.errors import SpecError
from attentune.evaluation.cost import parameter_count, token_latency, training_cost
from attentune.evaluation.language import evaluate_language
from attentune.models.checkpoint import model_folder
from attentune.models.decoder import Decoder

COST_BATCH = 12  # rows of a training step whose cost is measured


def measure(options: Options) -> None:
    """Score the model on the text, and print the score."""
    assert options.model is not None
    model, tokenizer = load(options.model, device=options.device, plugin=options.plugin)
    if options.data is None:
        documents = [builtin_text()]
    else:
        with activity("reading") as report:
            documents = read_documents(options.data, column=options.column, encoding=options.encoding, progress=report)
    several = len(documents) > 1
    if options.validation is not None:
        documents = split_documents(documents, options.validation)[1]
    with activity("encoding") as report:
        tokens = tokenize(documents, tokenizer, close_documents=several, unknown=options.unknown, progress=report)
    score = evaluate_language(
        model,
        tokens,
        tokenizer,
        context=options.context or model.spec.context,
        batch=options.batch,
        limit=options.limit,
        stride=options.stride,
        isolate_documents=options.isolate_documents,
    )
    found = {
        "model": str(model_folder(options.model)),
        "text": options.data or NAME,
        "parameters": parameter_count(model),
        **asdict(score),
    }
    costs = measured_cost(model, options.context or model.spec.context) if options.cost else {}
    if options.json_:
        print_json({**found, **({"cost": costs} if costs else {})})
        return
    print(
        f"{found['text']}: {score.nats_per_token:.4f} nats/token, {score.bits_per_character:.4f} bits/character, "
        f"{score.bits_per_byte:.4f} bits/byte, perplexity {score.perplexity:.3f} ({score.tokens:,} tokens)"
        + (
            ""
            if score.layers_per_token is None
            else f"; {score.layers_per_token:.2f} of {model.spec.depth} layers a token"
        )
    )
    if costs:
        latency = costs["latency_ms"]
        one = "cannot be decoded token by token" if latency is None else f"{latency:.3g} ms for one token"
        print(
            f"{found['parameters']:,} parameters, {one}; training on {costs['device']}: "
            f"{costs['tokens_per_second']:,.0f} tokens/s, {costs['peak_bytes'] / 1e6:,.1f} MB at most, "
            f"{costs['flops_per_token']:,.0f} operations/token"
        )


def measured_cost(model: Decoder, context: int) -> dict[str, Any]:
    """Latency of one token in milliseconds (None where the model cannot decode) and the cost of a training step."""
    try:
        latency: float | None = 1e3 * token_latency(model)
    except SpecError:
        latency = None
    step = training_cost(model, vocab_size=model.spec.vocab_size, batch=COST_BATCH, context=context)
    return {"device": next(model.parameters()).device.type, "latency_ms": latency, **asdict(step)}
