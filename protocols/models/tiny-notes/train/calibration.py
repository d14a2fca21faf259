"""Makes ../calibration.txt: sample text that `cachet prepare` measures ranges on, one document a line. Its seed is used nowhere else.

    python calibration.py
"""
import random
from pathlib import Path

from generate import EOS, test_case, training_document
from tokenizers import Tokenizer

here = Path(__file__).resolve().parent
tokenizer = Tokenizer.from_file(str(here.parent / "tokenizer.json"))


def count(text: str) -> int:
    return len(tokenizer.encode(text).ids)


rng = random.Random(20261124)
lines = []
for tokens in (64, 96, 128, 192, 256, 320, 384, 448, 512, 600, 700):
    lines.append(training_document(rng, tokens))
for tokens in (64, 100, 150, 200, 256, 320, 400, 512, 640, 760, 900, 960):
    kinds = rng.choice([1, 3, 12])
    prompt, answer, _ = test_case(rng, tokens, count, kinds)
    lines.append(prompt + answer + EOS)
assert max(map(count, lines)) <= 1024
(here.parent / "calibration.txt").write_text("\n".join(lines) + "\n")
