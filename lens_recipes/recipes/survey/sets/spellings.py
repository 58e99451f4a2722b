"""The spellings of a word of which any counts: cases, a space before it, digits, symbols."""

from __future__ import annotations

# fmt: off
UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
    "eighteen", "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
# fmt: on

OPERATIONS = {
    "addition": ["addition", "+", "plus", "add", "adding", "added", "sum"],
    "subtraction": ["subtraction", "-", "−", "minus", "subtract", "subtracting", "difference"],
    "multiplication": ["multiplication", "*", "×", "times", "multiply", "multiplied", "product"],
    "division": ["division", "/", "÷", "divide", "divided", "quotient"],
    "mod": ["mod", "%", "modulo", "modulus", "remainder"],
    "squared": ["squared", "²", "^", "**", "square", "power"],
}


def written_variants(word: str) -> list[str]:
    """Return a word as it is and with its first letter the other case, with and without a space.

    >>> written_variants("Mars")
    [' Mars', 'Mars', ' mars', 'mars']
    """
    other = word[0].swapcase() + word[1:]
    variants = [f" {word}", word, f" {other}", other]
    return list(dict.fromkeys(variants))


def expanded(word: str) -> list[str]:
    """Return a number with its word or its digits, an operation with its words and symbols.

    >>> expanded("12"), expanded("nine"), expanded("mod")
    (['12', 'twelve'], ['nine', '9'], ['mod', '%', 'modulo', 'modulus', 'remainder'])
    """
    if word in OPERATIONS:
        return OPERATIONS[word]
    number_words = words_of_numbers()
    if word.isdecimal() and int(word) < len(number_words):
        return [word, number_words[int(word)]]
    if word in number_words:
        return [word, str(number_words.index(word))]
    return [word]


def words_of_numbers() -> list[str]:
    """Return the numbers from 0 to 99 in words."""
    words = list(UNITS)
    for tens in TENS:
        words.append(tens)
        words.extend(f"{tens}-{unit}" for unit in UNITS[1:10])
    return words
