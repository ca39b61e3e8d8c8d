"""Questions that a generator writes about texts that it writes: who lives where, and what nobody is told."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from attentune.data.records import Record

NAMES = ["Bell", "Cook", "Diaz", "Eger", "Fox", "Gray", "Hume", "Ito"]
PLACES = ["Oslo", "Lima", "New Delhi", "Rome", "Cape Town", "Bern"]
JOBS = ["baker", "smith", "tailor", "night nurse"]


def questions(count: int, seed: int, *, unanswered: float = 0.0, longer: int = 0) -> list[Record]:
    """`count` records in the form of SQuAD; of a share of them the context does not tell; `longer` more sentences."""
    drawn, records = random.Random(seed), []
    for number in range(count):
        asked, *others = drawn.sample(NAMES, 4)
        told = [(name, drawn.choice(PLACES), drawn.choice(JOBS)) for name in (asked, *others[:2])]
        silent = drawn.random() < unanswered
        sentences = [f"{name} lives in {place} as a {job}." for name, place, job in told[silent:]]
        sentences += [f"Nothing is known of {drawn.choice(others[2:])}." for _ in range(longer)]
        drawn.shuffle(sentences)
        context = " ".join(sentences)
        place = drawn.random() < 0.5
        question = f"Where does {asked} live?" if place else f"What is the job of {asked}?"
        answer = told[0][1 if place else 2]
        start = context.find(f"{asked} lives in {told[0][1]} as")
        start += len(f"{asked} lives in " if place else f"{asked} lives in {told[0][1]} as a ")
        values: dict[str, Any] = {
            "id": str(number),
            "title": f"article {number % 7}",
            "context": context,
            "question": question,
            "answers": [] if silent else [{"text": answer, "start": start}],
            "impossible": silent,
        }
        records.append(Record(values, f"questions, question {number}"))
    return records


def write(path: Path, records: list[Record]) -> Path:
    """The records as a file of SQuAD, version 2."""
    articles: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        answers = [{"text": one["text"], "answer_start": one["start"]} for one in record["answers"]]
        question = {"id": record["id"], "question": record["question"], "answers": answers}
        question["is_impossible"] = record["impossible"]
        articles.setdefault(record["title"], {}).setdefault(record["context"], []).append(question)
    data = [
        {"title": title, "paragraphs": [{"context": text, "qas": held} for text, held in paragraphs.items()]}
        for title, paragraphs in articles.items()
    ]
    path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
    return path
