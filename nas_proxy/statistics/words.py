"""Numbers as people write them."""

from __future__ import annotations

import re

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}


def decimal(value: float, digits: int = 2) -> str:
    """A number without a leading zero, as statisticians write it: `.81`, `-.05`, `1.00`."""
    text = f"{round(value, digits) + 0.0:.{digits}f}"  # plus zero: no -.00
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def duration(seconds: float) -> str:
    """Seconds as a person says them: `12 ms`, `3.2 s`, `4 min 10 s`, `2.1 h`, `3.4 days`."""
    if seconds <= 0:
        return "0 s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.2g} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 47.95 else f"{hours / 24:.1f} days"


def duration_seconds(text: str) -> float:
    """Seconds of a duration such as `90s`, `10min`, `1h 30min` or `1.5d`.

    Raises:
        ValueError: If it is none, or no time at all; the message says how one is written.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?) ?([a-z]+) ?", text)
    whole = "".join(f"{number}{unit}" for number, unit in parts) == text.replace(" ", "")
    if not parts or not whole or any(unit not in _UNITS for _, unit in parts):
        raise ValueError(
            "no duration; write a number with its unit (s, min, h, d), such as 90s, 10min, 2h or "
            "1h 30min"
        )
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise ValueError("no time at all; give some minutes at least, such as 10min")
    return seconds
