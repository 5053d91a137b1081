"""Writes the texts and queries of `bench-text`, one per line.

Arguments: PAGES (`pages.jsonl.gz`), COPIES, QUERIES, DIRECTORY.
"""

import gzip
import json
import random
import re
import sys
from pathlib import Path

PAGES, COPIES, QUERIES, DIRECTORY = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
# The stop words that pages have: English indexes drop them, so no query asks for one.
STOP_WORDS = set("and are but for into not such that the their then there these they this was will with".split())

with gzip.open(PAGES, "rt") as lines:
    pages = [json.loads(line) for line in lines]
texts = [" ".join(page["text"].split()) for page in pages]
DIRECTORY.mkdir(parents=True, exist_ok=True)
with (DIRECTORY / "texts").open("w") as file:
    for copy in range(COPIES):
        for text in texts:
            # Each copy is a word shorter, so that few rows score the same.
            words = text.split()
            file.write(" ".join(words[: max(1, len(words) - copy)]) + "\n")
chance = random.Random(0)
english = [text for page, text in zip(pages, texts) if page["lang"] == "en"]
with (DIRECTORY / "queries").open("w") as file:
    for _ in range(QUERIES):
        words: list[str] = []
        while len(words) < 2:
            words = [word for word in re.findall(r"[a-z]{3,}", chance.choice(english)) if word not in STOP_WORDS]
            words = list(dict.fromkeys(words))
        file.write(" ".join(chance.sample(words, min(len(words), chance.randint(2, 4)))) + "\n")
