"""A language model that is a table: what it says depends on the last token and the place alone."""

import torch
from torch import Tensor

VOCABULARY, EOS, PAD, ROWS, PREFIX = 12, 2, 1, 3, 3
# (older way, length penalty, least length, beams, longest text): what the recorded searches were asked for.
CASES = [
    (way, penalty, least, beams, longest)
    for way in ("start", "prompt")
    for penalty in (-1.0, 0.0, 1.0, 2.0)
    for least in (1, 5)
    for beams, longest in ((3, 6), (5, 9))
]
SEEDS = range(4)


class Table:
    """Logits V for the token at place n of row b after the token t; `LanguageModel` for the tests."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            # Rounded, so that every machine and version of torch has the same numbers.
            return (torch.randn(shape, generator=generator, dtype=torch.float64) * 2).round(decimals=4)

        self.after, self.at, self.of_row = draw(VOCABULARY, VOCABULARY), draw(32, VOCABULARY), draw(ROWS, VOCABULARY)
        self.after[:, EOS] += 1.0

    def logits(self, rows: Tensor, place: int, last: Tensor) -> Tensor:
        return self.after[last] + self.at[place] + self.of_row[rows]

    def prefill(self, inputs_embeds: Tensor, attention_mask: Tensor | None, num_beams: int, max_new_tokens: int):
        rows = torch.arange(ROWS)
        return self.logits(rows, 0, torch.zeros_like(rows)), State(self)

    def lm_head(self, hidden: Tensor) -> Tensor:
        raise NotImplementedError


class State:
    def __init__(self, table: Table) -> None:
        self.table, self.rows, self.place = table, torch.arange(ROWS), 0

    def step(self, tokens: Tensor) -> Tensor:
        self.place += 1
        return self.table.logits(self.rows[:, None], self.place, tokens)

    def reorder(self, parents: Tensor) -> None:
        """The past is the last token alone."""

    def keep(self, rows: Tensor) -> None:
        self.rows = self.rows[rows]

    def look_ahead(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError
