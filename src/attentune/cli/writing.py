"""The work of `attentune generate`: continuations, shown while they are written."""

from __future__ import annotations

from attentune.cli.console import print_json
from attentune.cli.generate import Options
from attentune.cli.loading import load
from attentune.generation import Sampling, complete


def write(options: Options) -> None:
    """Print the prompt with each continuation; sample n is drawn with seed + n, counted from 0."""
    model, tokenizer = load(options.model, device=options.device, plugin=options.plugin)
    samples = []
    for number in range(options.samples):
        sampling = Sampling(
            greedy=options.greedy,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed + number,
        )
        if options.json_:
            samples.append(complete(model, tokenizer, options.prompt, tokens=options.tokens, sampling=sampling))
            continue
        if number:
            print("-" * 40)
        print(options.prompt, end="", flush=True)
        shown = _Shown()
        text = complete(model, tokenizer, options.prompt, tokens=options.tokens, sampling=sampling, on_text=shown)
        print(text[shown.characters :])
    if options.json_:
        print_json({"model": str(options.model), "prompt": options.prompt, "seed": options.seed, "samples": samples})


class _Shown:
    """Shows text as it comes, and counts it: an unfinished character at the very end is not told, only returned."""

    def __init__(self) -> None:
        self.characters = 0

    def __call__(self, text: str) -> None:
        print(text, end="", flush=True)
        self.characters += len(text)
