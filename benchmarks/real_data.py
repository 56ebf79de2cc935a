"""The public data sets of docs/tasks.md as files that staytuned ingests."""

import csv
import gzip
import json
import re
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from staytuned.data import example
from staytuned.models import find_base

Files = Callable[[Path, Path], list[Path]]  # of a data folder and a scratch folder: what is ingested
LEVELS = ["very bad", "bad", "mixed", "good", "very good"]
TURNS = 4  # of a chat, so that it has at most some 256 tokens


def given(*names: str) -> Files:
    """Files that are ingested as they are."""
    return lambda data, scratch: [data / name for name in names]


def conll(*names: str) -> Files:
    """Files of CoNLL columns under the ending that says so."""

    def copied(data: Path, scratch: Path) -> list[Path]:
        made = []
        for name in names:
            made.append(scratch / f"{Path(name).name.replace('.', '-')}.conll")
            made[-1].write_bytes((data / name).read_bytes())
        return made

    return copied


def ratings(data: Path, scratch: Path) -> list[Path]:
    """The product reviews of the road's example."""
    return [example.fetch("product", scratch)]


def levels(data: Path, scratch: Path) -> list[Path]:
    """The product reviews, with the mean of their ratings, from -4 to 4, as one of five levels."""
    bounds = [-2.0, -0.5, 0.5, 2.0]
    with example.fetch("product", scratch).open(encoding="utf-8", newline="") as handle:
        rows = [row | {"label": LEVELS[bisect(bounds, float(row["rating"]))]} for row in csv.DictReader(handle)]
    return [_jsonl(scratch / "levels.jsonl", rows)]


def abstracts(rows: int, *columns: str) -> Files:
    """arXiv papers: ``columns`` of their first ``rows``, by the names that staytuned has."""

    def made(data: Path, scratch: Path) -> list[Path]:
        names = dict(zip(columns, ("text", "text_pair"), strict=False))
        found = islice(_papers(data), rows)
        return [_jsonl(scratch / "papers.jsonl", ({names[name]: row[name] for name in columns} for row in found))]

    return made


def own_or_other(rows: int) -> Files:
    """arXiv titles, each with its own abstract or, every second one, with that of the next paper of its category."""

    def made(data: Path, scratch: Path) -> list[Path]:
        papers = sorted(islice(_papers(data), rows), key=lambda row: (row["label"], row["arxiv_id"]))
        pairs = []
        for place, paper in enumerate(papers):
            other = papers[(place + 1) % len(papers)] if place % 2 else paper
            label = "other" if place % 2 else "own"
            pairs.append({"text": paper["title"], "text_pair": other["abstract"], "label": label})
        return [_jsonl(scratch / "pairs.jsonl", pairs)]

    return made


def summaries(data: Path, scratch: Path) -> list[Path]:
    """700 abstracts of SciTLDR and the first summary of each."""
    with (data / "summarization/scitldr/train.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, 700)]
    pairs = ({"text": " ".join(row["source"]), "label": row["target"][0]} for row in rows)
    return [_jsonl(scratch / "summaries.jsonl", pairs)]


def translations(data: Path, scratch: Path) -> list[Path]:
    """Every 16th pair of Tatoeba: 1,276."""
    rows = [{"text": english, "label": chinese} for english, chinese in _english_chinese(data, 16)]
    return [_jsonl(scratch / "translations.jsonl", rows)]


def sentences(data: Path, scratch: Path) -> list[Path]:
    """Every 4th pair of Tatoeba, to find the Chinese sentence for the English one: 5,101."""
    rows = [{"text": english, "text_pair": chinese} for english, chinese in _english_chinese(data, 4)]
    return [_jsonl(scratch / "sentences.jsonl", rows)]


def questions(data: Path, scratch: Path) -> list[Path]:
    """XQuAD as it is; COVID-QA, each question with the paragraph of its document that holds the answer."""
    documents = [
        {"title": document["paragraphs"][0]["document_id"], "paragraphs": list(_passages(document))}
        for document in json.loads((data / "qa/covidqa.json").read_text("utf-8"))["data"]
    ]
    passages = scratch / "covidqa.json"
    passages.write_text(json.dumps({"data": documents}), encoding="utf-8")
    return [data / "qa/xquad.en.json", passages]


def _passages(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A paragraph with its question; some answers stand a few characters beside the start that the data gives."""
    for paragraph in document["paragraphs"]:
        context = paragraph["context"]
        for asked in paragraph["qas"]:
            answer = asked["answers"][0]["text"].strip()
            starts = [match.start() for match in re.finditer(re.escape(answer), context)]
            start = min(starts, key=lambda place: abs(place - asked["answers"][0]["answer_start"]))
            before = context[:start].rpartition("\n\n")[2]
            after = context[start + len(answer) :].partition("\n\n")[0]
            found = [{"text": answer, "answer_start": len(before)}]
            asks = {"id": asked["id"], "question": asked["question"], "answers": found}
            yield {"context": before + answer + after, "qas": [asks]}


def chats(data: Path, scratch: Path) -> list[Path]:
    """Chats of ``TURNS`` turns, cut out of the dialogues at each turn of the user's, so that they overlap by half."""
    rows = []
    for dialogue in _dialogues(data):
        turns = [{"role": role, "content": turn["utterance"]} for role, turn in _turns(dialogue)]
        for start in range(0, len(turns) - TURNS + 1, 2):
            chat = turns[start : start + TURNS]
            rows.append({"messages": chat, "document": dialogue["dialogue_id"]})
    return [_jsonl(scratch / "chats.jsonl", rows)]


def acts(data: Path, scratch: Path) -> list[Path]:
    """What each turn of the dialogues does (INFORM, REQUEST, ...), its speaker, and the dialogue it is of."""
    rows = []
    for dialogue in _dialogues(data):
        for place, (role, turn) in enumerate(_turns(dialogue)):
            done = sorted(_acts_of(turn))
            rows.append(
                {"text": turn["utterance"], "label": done, "acts": done, "speaker": role}
                | {"document": dialogue["dialogue_id"], "id": f"{dialogue['dialogue_id']}/{place}"}
            )
    return [_jsonl(scratch / "acts.jsonl", rows)]


def similar_turns(data: Path, scratch: Path) -> list[Path]:
    """Pairs of turns of a dialogue and how much they do alike: acts that both have over acts that either has.

    Each turn stands beside the next two that do the same, the next two that do some of it, and the next two that do
    none of it.
    """
    rows = []
    for dialogue in _dialogues(data):
        turns = [(turn["utterance"], _acts_of(turn)) for _, turn in _turns(dialogue)]
        for place, (text, done) in enumerate(turns):
            pairs: dict[str, list[dict[str, Any]]] = {"same": [], "some": [], "none": []}
            for other, does in turns[place + 1 :]:
                degree = "same" if done == does else "some" if done & does else "none"
                alike = round(len(done & does) / len(done | does), 3)
                pairs[degree].append({"text": text, "text_pair": other, "label": alike})
            rows += [pair | {"document": dialogue["dialogue_id"]} for found in pairs.values() for pair in found[:2]]
    return [_jsonl(scratch / "similar.jsonl", rows)]


def act_names(data: Path) -> list[str]:
    """All acts of the dialogues."""
    return sorted({act for dialogue in _dialogues(data) for _, turn in _turns(dialogue) for act in _acts_of(turn)})


def intents(data: Path) -> list[str]:
    """All intents of Banking77."""
    with (data / "intent/banking77/train.csv").open(encoding="utf-8", newline="") as handle:
        return sorted({row["category"] for row in csv.DictReader(handle)})


def with_masked_head(folder: Path) -> None:
    """all-MiniLM-L6-v2 with a head that predicts masked tokens, which starts from nothing but for the embeddings."""
    import transformers

    base = find_base("sentence-transformers/all-MiniLM-L6-v2", [])
    transformers.set_seed(7)
    transformers.AutoModelForMaskedLM.from_pretrained(base, local_files_only=True).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base, local_files_only=True).save_pretrained(folder)


def _english_chinese(data: Path, every: int) -> list[list[str]]:
    """Pairs of Tatoeba, which come by length, so that every so many of them are of all lengths."""
    with (data / "translation/tatoeba_en_zh/cmn.txt").open(encoding="utf-8") as lines:
        return [line.rstrip("\n").split("\t")[:2] for line in islice(lines, 0, None, every)]


def _papers(data: Path) -> Iterator[dict[str, str]]:
    with gzip.open(data / "arxiv/abstracts.csv.gz", "rt", encoding="utf-8", newline="") as handle:
        yield from csv.DictReader(handle)


def _dialogues(data: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((data / "dialogue/sgd_dev_001.json").read_text("utf-8"))
    return found


def _turns(dialogue: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    roles = {"USER": "user", "SYSTEM": "assistant"}
    return [(roles[turn["speaker"]], turn) for turn in dialogue["turns"]]


def _acts_of(turn: dict[str, Any]) -> set[str]:
    return {action["act"] for frame in turn["frames"] for action in frame["actions"]}


def _jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
