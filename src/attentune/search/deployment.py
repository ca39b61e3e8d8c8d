"""The stage of deployment: the chosen model saved, loaded by a fresh process, and compared with the one in memory.

`python -m attentune.search.deployment MODEL PROBE [PLUGIN]` is that fresh process: it loads the model folder, computes
the logits of the tokens in the safetensors file PROBE, and prints how far they are from those stored beside them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from attentune.data.corpus import Corpus
from attentune.errors import AttentuneError, StudyError
from attentune.generation.generate import complete
from attentune.generation.sampling import Sampling
from attentune.kernels.layout import LayoutKind
from attentune.mechanisms import load_plugin, registry
from attentune.models.checkpoint import Saves, load_model, save_model
from attentune.models.decoder import Decoder
from attentune.search.pictures import AttentionPicture
from attentune.search.result import DeploymentCheck, Sample

TOLERANCE = 1e-4  # of logits computed in float32 by another process
PICTURE_TOKENS = 32
PROMPT_CHARACTERS = 24


def deploy(
    model: Decoder, corpus: Corpus, folder: Path, *, card: str, extra: Mapping[str, Any], plugin: str | None = None
) -> DeploymentCheck:
    """Saves `model` in `folder` and has a fresh process check it.

    Raises:
        StorageError: the folder cannot be written.
        StudyError: the fresh process could not load the model; the message says why.
    """
    tokenizer = corpus.tokenizer
    save_model(folder, model, tokenizer=tokenizer if isinstance(tokenizer, Saves) else None, card=card, extra=extra)
    return check(model, corpus, folder, plugin=plugin)


def check(model: Decoder, corpus: Corpus, folder: Path, *, plugin: str | None = None) -> DeploymentCheck:
    """Whether the model in `folder`, loaded by a fresh process, gives the logits of `model` on validation text."""
    length = min(model.spec.context, len(corpus.validation))
    ids = torch.from_numpy(corpus.validation.ids[:length].astype("int64"))[None]
    with torch.no_grad():
        logits = model.eval()(ids).logits
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        probe = Path(place) / "probe.safetensors"
        save_file({"ids": ids, "logits": logits.contiguous()}, probe)
        command = [sys.executable, "-m", "attentune.search.deployment", str(folder), str(probe)]
        done = subprocess.run(
            [*command, *([plugin] if plugin else [])],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
            check=False,
        )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise StudyError(
            f"the model in {folder} cannot be loaded by a fresh process: {said[-1] if said else 'no reason given'}"
        )
    difference = float(json.loads(done.stdout)["max_logit_difference"])
    return DeploymentCheck(
        model=str(folder),
        max_logit_difference=difference,
        tolerance=TOLERANCE,
        passed=difference <= TOLERANCE,
        seconds=time.perf_counter() - begun,
    )


def sample(model: Decoder, corpus: Corpus, *, tokens: int = 300, seed: int = 0) -> Sample | None:
    """A continuation of the beginning of the validation text; None where the attention cannot decode."""
    start = corpus.tokenizer.decode(corpus.validation.ids[: model.spec.context // 2].tolist())
    prompt = start[:PROMPT_CHARACTERS] or "\n"
    sampling = Sampling(temperature=0.8, top_k=min(50, corpus.vocab_size), seed=seed)
    try:
        text = complete(model, corpus.tokenizer, prompt, tokens=tokens, sampling=sampling)
    except AttentuneError:
        return None
    return Sample(prompt=prompt, text=text, settings=f"temperature 0.8, top-k {sampling.top_k}, seed {seed}")


def picture(model: Decoder, corpus: Corpus) -> AttentionPicture | None:
    """The attention weights of `model` over the beginning of the validation text; None where it has none to show."""
    length = min(PICTURE_TOKENS, model.spec.context, len(corpus.validation))
    ids = corpus.validation.ids[:length].astype("int64")
    try:
        with torch.no_grad():
            output = model.eval()(torch.from_numpy(ids)[None], wanted=frozenset({"output", "weights"}))
        layers = []
        for extra in output.attention:
            weights = extra.get("weights")
            if weights is None:  # a layer without attention
                continue
            assert isinstance(weights, torch.Tensor)
            layers.append(weights[0].float().numpy())
        tokens = tuple(corpus.tokenizer.decode([int(token)]) for token in ids)
        return AttentionPicture(tokens=tokens, layers=tuple(layers))
    except AttentuneError:
        return None


def plan_text(model: Decoder) -> str:
    """Which kernel computes each different attention of `model` while it trains, and why not the others."""
    attentions = [block.attention for block in _blocks(model) if block.attention is not None]
    texts = dict.fromkeys(attention.plans[LayoutKind.PLAIN, True, False, 0].explain() for attention in attentions)
    return "\n\n".join(texts)


def _blocks(model: Decoder) -> Sequence[Any]:
    return list(model.layers)


def main(arguments: Sequence[str]) -> int:
    """The fresh process; returns its exit code."""
    folder, probe, *plugin = arguments
    try:
        if plugin:
            load_plugin(plugin[0], registry)
        model = load_model(folder).decoder
    except AttentuneError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the parent process reads it
        return 2
    held = load_file(probe)
    with torch.no_grad():
        logits = model(held["ids"]).logits
    worst = float((logits - held["logits"]).abs().max())
    print(json.dumps({"max_logit_difference": worst}))  # noqa: T201 - the parent process reads it
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
