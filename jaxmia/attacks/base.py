"""BASE (Lassila et al. 2025, arXiv 2505.24089): the target's probability divided by the shadows' mean."""

from __future__ import annotations

from jaxmia.attacks.ratios import log_ratios, offline_coefficients
from jaxmia.attacks.shadows import score_arrays, sides
from jaxmia.scores import Scores
from jaxmia.stats.result import AttackResult


def base(
    scores: Scores, *, offline: bool = False, a: float | None = None, paired: bool = False
) -> AttackResult:
    """Return log p - log p̄, which ranks the examples of a target as RMIA does, without queries on a population.

    BASE: Lassila et al. 2025 (arXiv 2505.24089).

    Online: p̄ = (p̄_in + p̄_out) / 2. Offline: p̄ = ((1 + a) p̄_out + 1 - a) / 2, from OUT shadows alone.
    Log ratios are rounded to 1e-12 nats, so that values that are equal in exact arithmetic stay equal.

    Args:
        scores: log_odds and member [models, examples], at least 3 models.
        offline: use OUT shadows alone.
        a: coefficient of the offline form, in [0, 1]; by default tuned for each target on one of its shadows.
        paired: use every shadow on both sides, by scores.flipped_log_odds.

    Returns:
        float64 statistic [models, examples]; 0 and undefined where a needed side has no shadow.

    Raises:
        InputError: for bad scores, a outside [0, 1] or without offline, or paired without flipped scores.
    """
    log_odds, member = score_arrays(scores)
    shadows = sides(scores, paired=paired)
    offline_a = offline_coefficients(log_odds, member, shadows.outside, offline=offline, a=a)
    statistic, defined = log_ratios(log_odds, shadows, offline_a)
    return AttackResult(statistic, member, defined)
