"""Values as text, rounded to their spread, so that meaningless digits are not shown.

The spread has two significant digits, as GUM (JCGM 100:2008, 7.2.6) advises, and the value has as
many decimals as the spread.
"""

from __future__ import annotations

from math import floor, isfinite, log10

# Digits of a value whose spread is unknown or zero.
SIGNIFICANT = 4
# A value that needs more decimals is shown with an exponent.
MOST_DECIMALS = 6
UNDEFINED = "-"


def rounded(value: float, spread: float, *, signed: bool = False) -> str:
    """`value` with the decimals of `spread`, or with four significant digits without a spread.

    Args:
        spread: a standard deviation or half an interval; not finite or 0 where there is none.
        signed: show a plus sign too.

    Returns:
        '-' for a value that is not finite.
    """
    if not isfinite(value):
        return UNDEFINED
    sign = "+" if signed else ""
    if not isfinite(spread) or spread <= 0:
        return f"{value:{sign}z.{SIGNIFICANT}g}" if abs(value) < 1e4 else f"{value:{sign}z.0f}"
    decimals = _decimals(spread)
    if decimals > MOST_DECIMALS:
        exponent = floor(log10(max(abs(value), spread)))
        return f"{value / 10**exponent:{sign}z.{decimals + exponent}f}e{exponent:03d}"
    return f"{round(value, decimals):{sign}z.{max(decimals, 0)}f}"


def with_spread(mean: float, sd: float, half: float) -> str:
    """'0.090 ± 0.011'; the mean alone if `sd` is not finite, as with a single seed.

    Args:
        half: half the width of the mean's interval, used for rounding if there is no sd.
    """
    if not isfinite(sd) or not isfinite(mean):
        return rounded(mean, half)
    if sd == 0:
        return f"{rounded(mean, half)} ± 0"
    return f"{rounded(mean, sd)} ± {rounded(sd, sd)}"


def interval(low: float, high: float, *, signed: bool = False) -> str:
    """'0.071 to 0.111'."""
    half = (high - low) / 2
    return f"{rounded(low, half, signed=signed)} to {rounded(high, half, signed=signed)}"


def p_value(p: float) -> str:
    """Two decimals; three below 0.1."""
    if not isfinite(p):
        return UNDEFINED
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def _decimals(spread: float) -> int:
    """The decimal place of the second significant digit of `spread`; negative left of the point."""
    first = floor(log10(spread))
    # 0.0996 becomes 0.10, not 0.100.
    if round(spread, 1 - first) >= 10 ** (first + 1):
        first += 1
    return 1 - first
