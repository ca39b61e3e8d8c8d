"""Tokenizers that come with a model: of a folder that Attentune has written, or of one in the Hugging Face layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from attentune.data.published import PublishedTokenizer
from attentune.data.sentence_pieces import read_sentence_pieces
from attentune.data.subwords import SPECIAL, SubwordTokenizer
from attentune.data.tokenizers import Tokenizer, load_tokenizer
from attentune.data.vocabulary import TOKENIZER, TOKENIZER_CONFIG, read_json
from attentune.errors import CheckpointError

Side = Literal["source", "target", "both"]

# How others write special tokens, and, where a model has none for a purpose, whose token serves it.
_WRITTEN = {
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "bos_token": ("<s>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos_token": ("</s>", "<|end_of_text|>", "<|endoftext|>"),
    "mask_token": ("[MASK]", "<mask>"),
    "sep_token": ("[SEP]",),
    "cls_token": ("[CLS]",),
}
_IN_PLACE_OF = {"bos_token": "cls_token", "eos_token": "sep_token"}


def adopted_tokenizer(folder: str | Path, side: Side | None = None) -> SubwordTokenizer:
    """The tokenizer of the model in `folder`, for a task.

    Special tokens that it has none of are added behind its vocabulary. Of a folder with one tokenizer for sources and
    one for targets, `side` says whose it is to be; None is the source's.

    Raises:
        CheckpointError: the folder holds no tokenizer that can be read, or not the same one for both sides.
    """
    place = Path(folder)
    apart = (place / "source" / TOKENIZER).is_file()
    if side == "both" and (apart or ((place / "target.spm").is_file() and not (place / TOKENIZER).is_file())):
        raise CheckpointError(
            f"{place} has one tokenizer for sources and one for targets: say shared_vocabulary=false in the task"
        )
    if apart:
        place = place / (side or "source")
    config = read_json(place / TOKENIZER_CONFIG) if (place / TOKENIZER_CONFIG).is_file() else {}
    if config.get("attentune_tokenizer") in ("subword", "adopted"):
        return SubwordTokenizer.load(place)
    tokenizer = library_tokenizer(place, config, side)
    about = read_json(place / "config.json") if (place / "config.json").is_file() else {}
    return adopt(tokenizer, _named(place, config, about, tokenizer), rows=_rows(about))


def adopt(tokenizer: LibraryTokenizer, named: dict[str, str], *, rows: int = 0) -> SubwordTokenizer:
    """`tokenizer` as one of a task; `named` are its special tokens, `rows` those of the table of embeddings.

    What `named` lacks is added, with new numbers behind all others.
    """
    held = tokenizer.get_vocab(with_added_tokens=True)
    framed = {"cls_token", "sep_token"} <= named.keys()
    known = {name: token for name, token in named.items() if token in held}
    for name, other in _IN_PLACE_OF.items():
        if name not in known and other in known:
            known[name] = known[other]
    for name, token in SPECIAL.items():
        known.setdefault(name, token)
    tokenizer = _knowing_unknown(tokenizer, known["unk_token"])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in known.values()])
    held = tokenizer.get_vocab(with_added_tokens=True)
    numbers = {name: held[token] for name, token in known.items()}
    size = max(rows, 1 + max(held.values()))
    return SubwordTokenizer(tokenizer, special=numbers, vocab_size=size, framed=framed)


def library_tokenizer(place: Path, config: dict[str, Any], side: Side | None = None) -> LibraryTokenizer:
    """The tokenizer in a model folder: `tokenizer.json`, or the older files of BERT, GPT-2 or Marian.

    Raises:
        CheckpointError: there is none of them, or it is damaged.
    """
    try:
        tokenizer = _from_files(place, config, side)
    except CheckpointError:
        raise
    except Exception as error:  # the library raises bare Exception for every malformed file
        raise CheckpointError(f"the tokenizer in {place} is damaged: {str(error).splitlines()[0]}") from None
    if tokenizer is None:
        raise CheckpointError(
            f"{place} holds no tokenizer: there is no tokenizer.json, vocab.txt (BERT), vocab.json with merges.txt "
            "(GPT-2) or source.spm with vocab.json (Marian)"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_files(place: Path, config: dict[str, Any], side: Side | None) -> LibraryTokenizer | None:
    if (place / TOKENIZER).is_file():
        return LibraryTokenizer.from_str(json.dumps(read_json(place / TOKENIZER)))
    if (place / "vocab.txt").is_file():
        words = (place / "vocab.txt").read_text(encoding="utf-8").splitlines()
        vocabulary = {word.strip(): number for number, word in enumerate(words)}
        tokenizer = LibraryTokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
        tokenizer.normalizer = normalizers.BertNormalizer(
            lowercase=bool(config.get("do_lower_case", True)),
            strip_accents=config.get("strip_accents"),
            handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece(prefix="##")
        return tokenizer
    if (place / "vocab.json").is_file() and (place / "merges.txt").is_file():
        tokenizer = LibraryTokenizer(models.BPE.from_file(str(place / "vocab.json"), str(place / "merges.txt")))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space", False)))
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer
    spm = place / f"{'target' if side == 'target' else 'source'}.spm"
    if spm.is_file() and (place / "vocab.json").is_file():
        return read_sentence_pieces(spm, read_json(place / "vocab.json"))
    return None


def _named(place: Path, config: dict[str, Any], about: dict[str, Any], tokenizer: LibraryTokenizer) -> dict[str, str]:
    """The special tokens that the model has, by their names in files."""
    held = tokenizer.get_vocab(with_added_tokens=True)
    told = read_json(place / "special_tokens_map.json") if (place / "special_tokens_map.json").is_file() else {}
    named: dict[str, str] = {}
    for name, written in _WRITTEN.items():
        said = told.get(name) or config.get(name)
        token = said.get("content") if isinstance(said, dict) else said
        choices = (*([token] if isinstance(token, str) else []), *written)
        found = next((one for one in choices if one in held), None)
        if found is not None:
            named[name] = found
    generation = read_json(place / "generation_config.json") if (place / "generation_config.json").is_file() else {}
    start = "decoder_start_token_id"  # of an encoder-decoder: what a target begins with
    begin = about.get(start, generation.get(start))
    if type(begin) is int and (token := tokenizer.id_to_token(begin)) is not None:
        named["bos_token"] = token
    return named


def _rows(about: dict[str, Any]) -> int:
    """How many tokens the model has vectors of: at least as many as its tokenizer knows."""
    ours = about.get("model")
    size = (ours if isinstance(ours, dict) else about).get("vocab_size", 0)
    return size if type(size) is int else 0


def _knowing_unknown(tokenizer: LibraryTokenizer, unknown: str) -> LibraryTokenizer:
    """A vocabulary of whole words or characters must itself hold the token of what it does not know.

    Those added to it before must then be in it too: the library numbers them anew behind the vocabulary otherwise.
    """
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    if model["type"] != "WordLevel" or unknown in model["vocab"]:
        return tokenizer
    model["vocab"] |= {token["content"]: token["id"] for token in content["added_tokens"]}
    model["vocab"][unknown] = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
    model["unk_token"] = unknown
    return LibraryTokenizer.from_str(json.dumps(content))


def language_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of the language model in `folder`, for language modelling.

    Raises:
        CheckpointError: the folder holds no tokenizer that can be read, or one of a task.
    """
    place = Path(folder)
    config = read_json(place / TOKENIZER_CONFIG) if (place / TOKENIZER_CONFIG).is_file() else {}
    if "attentune_tokenizer" in config:
        return load_tokenizer(place)
    tokenizer = library_tokenizer(place, config)
    about = read_json(place / "config.json") if (place / "config.json").is_file() else {}
    known = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
    end = _named(place, config, about, tokenizer).get("eos_token")
    return PublishedTokenizer(tokenizer, vocab_size=max(known, _rows(about)), end=end)
