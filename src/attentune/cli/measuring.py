"""The work of `attentune evaluate`: a text in the model's own tokens, and its score."""

from __future__ import annotations

from dataclasses import asdict

from attentune.cli.console import activity, print_json
from attentune.cli.evaluate import Options
from attentune.cli.loading import load
from attentune.data.builtin import NAME, builtin_text
from attentune.data.corpus import split_documents, tokenize
from attentune.data.files import read_documents
from attentune.evaluation.cost import parameter_count
from attentune.evaluation.language import evaluate_language


def measure(options: Options) -> None:
    """Score the model on the text, and print the score."""
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
        "model": str(options.model),
        "text": options.data or NAME,
        "parameters": parameter_count(model),
        **asdict(score),
    }
    if options.json_:
        print_json(found)
        return
    print(
        f"{found['text']}: {score.nats_per_token:.4f} nats/token, {score.bits_per_character:.4f} bits/character, "
        f"{score.bits_per_byte:.4f} bits/byte, perplexity {score.perplexity:.3f} ({score.tokens:,} tokens)"
    )
