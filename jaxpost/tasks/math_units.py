r"""Units, currencies, percent and degrees: told apart from the value they stand beside.

A value without a unit equals the value with one, whatever it is (a problem's text usually fixes it); two different units do not
agree. Plain words count as units only if they are in the table: `3 apples` is not 3, `5m` is a product and `5 m` are metres.
"""

import re

_NAMES = {
    "m": "meter meters metre metres", "cm": "centimeter centimeters centimetre centimetres", "mm": "millimeter millimeters",
    "km": "kilometer kilometers kilometre kilometres", "in": "inch inches", "ft": "foot feet", "yd": "yard yards",
    "mi": "mile miles", "g": "gram grams", "kg": "kilogram kilograms", "mg": "milligram milligrams", "lb": "lbs pound pounds",
    "oz": "ounce ounces", "s": "sec secs second seconds", "min": "mins minute minutes", "h": "hr hrs hour hours",
    "day": "days", "week": "weeks", "month": "months", "year": "yr yrs years", "L": "l liter liters litre litres",
    "mL": "ml milliliter milliliters", "mi/h": "mph", "km/h": "kph kmph", "Hz": "", "N": "", "J": "", "W": "", "V": "", "K": "",
    "$": "dollar dollars usd bucks \\$", "€": "euro euros eur", "£": "gbp", "¥": "yen", "₹": "rupee rupees", "cent": "cents ¢",
    "%": "\\% percent percentage pct", "degree": "degrees deg \\degree ^\\circ ^{\\circ} °", "unit": "units",
}
_CANON = {alias: name for name, words in _NAMES.items() for alias in (name, *words.split())}
_LETTERS = {"m", "g", "s", "h", "L", "l", "N", "J", "W", "V", "K"}  # units only after a space
_POWERS = (("square", "^2"), ("sq", "^2"), ("cubic", "^3"), ("cu", "^3"))
_SUFFIX = re.compile(r"\s*(?:\\%|%|\^\s*\{?\s*\\circ\s*\}?|\\degree|°|¢|€|£|¥|₹|\\\$)\s*$")
_TEXT = re.compile(r"(?<=\S)\s*\\(?:text(?:bf|it|rm)?|mathrm|mbox)\s*\{([^{}]*)\}\s*(\^\s*(?:\{\s*\d\s*\}|\d))?\s*$")
_WORDS = re.compile(r"(?P<value>.*[\d}])(?P<space>\s*)(?P<unit>(?:(?:sq|square|cu|cubic)\.?\s+)?[A-Za-z$]+\.?"
                    r"(?:\s*/\s*[A-Za-z]+|\s+per\s+[A-Za-z]+)?(?:\s*\^\s*\{?\s*\d\s*\}?)?)\s*$")
_PREFIX = re.compile(r"^([-+]?)\s*(?:\\?(\$)|([€£¥₹]))\s*")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)|^(?:sin|cos|tan)")  # of an angle: the degrees are its argument's
_SAME = {"unit": ""}


def split(text: str) -> tuple[str, str]:
    r"""(value, unit in one spelling, "" without one).

    >>> split(r"15\text{ square cm}"), split("$18"), split("90^\\circ"), split("5m"), split("3 apples")
    (('15', 'cm^2'), ('18', '$'), ('90', 'degree'), ('5m', ''), ('3 apples', ''))
    """
    if (match := _PREFIX.match(text)) and (rest := text[match.end():]).strip():
        return match[1] + rest, match[2] or match[3]
    if (match := _SUFFIX.search(text)) and text[:match.start()].strip() and not _FUNCTION.search(text):
        return text[:match.start()].strip(), _canonical(match[0])
    if (match := _TEXT.search(text)) and re.search(r"[\d})]$", text[:match.start()].strip()):
        if unit := _canonical(match[1] + (match[2] or "")):
            return text[:match.start()].strip(), unit
        return text[:match.start()].strip(), ""
    if (match := _WORDS.fullmatch(text)) and _known(match["unit"], bool(match["space"])):
        return match["value"].strip(), _canonical(match["unit"])
    return text, ""


def agree(a: str, b: str) -> bool:
    """Whether two units do not contradict each other."""
    a, b = _SAME.get(a, a), _SAME.get(b, b)
    return not a or not b or a == b


def _known(unit: str, spaced: bool) -> bool:
    words = re.findall(r"[A-Za-z$]+", unit)
    if words and words[0] in _LETTERS and not spaced:
        return False
    return all(word in _CANON or word.lower() in _CANON or word in ("sq", "square", "cu", "cubic", "per") for word in words)


def _canonical(unit: str) -> str:
    unit = re.sub(r"\s+", " ", unit.replace("~", " ").replace("\\,", " ").strip().rstrip("."))
    if bare := _CANON.get(unit.replace(" ", "")):
        return bare
    power = ""
    for word, mark in _POWERS:
        if re.match(rf"{word}\.?\s", unit):
            unit, power = re.sub(rf"^{word}\.?\s+", "", unit), mark
    unit = re.sub(r"\^\s*\{?\s*(\d)\s*\}?", r"^\1", unit).replace(" per ", "/") + power
    return re.sub(r"[A-Za-z$]+", lambda m: _CANON.get(m[0], _CANON.get(m[0].lower(), m[0].lower())), unit.replace(" ", ""))
