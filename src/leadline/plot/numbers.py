"""Numbers as a reader wants them: three digits, an error as an error."""

from __future__ import annotations

import math

__all__ = ["number", "with_error"]


def number(value: float | None, digits: int = 3) -> str:
    """A number with few digits.

    Args:
        value: any number; None where there is none.
        digits: significant digits.

    Returns:
        Fixed point between 0.001 and 10,000, else the form ``3.1e-9``; an em dash for None.

    >>> number(0.33388), number(3.14159e-9), number(None), number(12345.6)
    ('0.334', '3.1e-09', '—', '1.2e+04')
    """
    if value is None:
        return "—"
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if size == 0:
        return "0"
    if not 1e-3 <= size < 1e4:
        return f"{value:.{max(digits - 2, 0)}e}"
    places = max(digits - 1 - math.floor(math.log10(size)), 0)
    return f"{value:.{places}f}"


def with_error(value: float | None, error: float | None, *, relative: bool = False) -> str:
    """A measured number and its standard error.

    Args:
        value: the number, or None.
        error: its standard error; None or 0 where there is none.
        relative: give the error in per cent of the number.

    Returns:
        The error has one digit and the number ends at its last place (three digits where it is relative); an
        error below the number's third digit is left out.

    >>> with_error(0.3338, 0.0123), with_error(0.5, None), with_error(2.1e-6, 3e-7), with_error(1.0, 2e-5)
    ('0.33±0.01', '0.500', '2e-06±3e-07', '1.00')
    >>> with_error(0.3338, 0.0123, relative=True)
    '0.334±4%'
    """
    if value is None or not error or not math.isfinite(error) or not math.isfinite(value):
        return number(value)
    if error < 0.5e-3 * abs(value):
        return number(value)
    if relative and value != 0:
        share = 100 * error / abs(value)
        return f"{number(value)}±{share:.1f}%" if share < 0.95 else f"{number(value)}±{share:.0f}%"
    if not 1e-3 <= max(abs(value), error) < 1e4:
        return f"{value:.0e}±{error:.0e}"
    places = min(max(-math.floor(math.log10(error)), 0), 4)
    return f"{value:.{places}f}±{error:.{places}f}"
