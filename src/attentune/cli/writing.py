"""The work of `attentune generate`: continuations, shown while they are written."""

from __future__ import annotations

from attentune.cli.console import print_json
from attentune.cli.generate import Options
from attentune.cli.loading import known_text, load
from attentune.cli.words import UsageError
from attentune.data.tokenizers import Tokenizer
from attentune.errors import DataError
from attentune.generation import Sampling, complete
from attentune.models.checkpoint import model_folder
from attentune.models.decoder import Decoder
from attentune.spec.slots import Rotation
from attentune.spec.text import format_value


def write(options: Options) -> None:
    """Print the prompt with each continuation; sample n is drawn with seed + n, counted from 0."""
    model, tokenizer = load(options.model, device=options.device, plugin=options.plugin)
    prompt = _known(options, tokenizer)
    _check_decoding(options, model, len(tokenizer.encode(prompt)))
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
            samples.append(complete(model, tokenizer, prompt, tokens=options.tokens, sampling=sampling))
            continue
        shown = _Shown("-" * 40 + f"\n{prompt}" if number else prompt)
        text = complete(model, tokenizer, prompt, tokens=options.tokens, sampling=sampling, on_text=shown)
        shown.end(text)
    if options.json_:
        print_json(
            {"model": str(model_folder(options.model)), "prompt": prompt, "seed": options.seed, "samples": samples}
        )


def _known(options: Options, tokenizer: Tokenizer) -> str:
    """The prompt, as far as the tokenizer knows its characters."""
    known = known_text(options.prompt, tokenizer, unknown=options.unknown, of="the prompt")
    if not known and tokenizer.end_of_text is None:
        try:
            tokenizer.encode("\n")
        except DataError:
            raise UsageError("this model knows no start of a text or of a line: give it a --prompt") from None
    return known


def _check_decoding(options: Options, model: Decoder, prompt: int) -> None:
    """Raise `UsageError` where a model that predicts whole rows cannot write `prompt` tokens on."""
    for attention in model.spec.attentions:
        if attention.mask.lookahead is None:
            raise UsageError(
                f"mask={format_value(attention.mask)} shows later keys, so this model cannot write token by token: "
                "it can be measured with `attentune evaluate`"
            )
        position = attention.position
        steady = position.steady_length if isinstance(position, Rotation) else None
        if position is None or steady is None or steady >= model.spec.context:
            continue
        room = max(steady - prompt, 0) + 1  # the last token is written, never read
        if options.tokens > room:
            raise UsageError(
                f"position={format_value(position)} turns keys by the length of the row, so that this model "
                f"can write {room} tokens after this prompt: use --tokens {room}"
            )


class _Shown:
    """Shows text as it comes, behind the prompt; so an error comes before anything is shown.

    An unfinished character at the very end is not told, only returned: `end` shows it.
    """

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.characters = 0

    def __call__(self, text: str) -> None:
        if not self.characters:
            print(self.prompt, end="")
        print(text, end="", flush=True)
        self.characters += len(text)

    def end(self, whole: str) -> None:
        """Show the rest of the `whole` continuation, and end the line."""
        self(whole[self.characters :])
        print()
