"""Does a text go round in circles?"""

from __future__ import annotations

_LONGEST_LOOP, _ROUNDS, _REPEATED = 16, 4, 16


def repetition(tokens: list[int]) -> int:
    """Length of the loop that `tokens` contain: up to 16 tokens, four times or more in a row, 16 in all; else 0."""
    for period in range(1, _LONGEST_LOOP + 1):
        run_length = 0
        for now, before in zip(tokens[period:], tokens, strict=False):
            run_length = run_length + 1 if now == before else 0
            if run_length + period >= max(_ROUNDS * period, _REPEATED):
                return period
    return 0
