"""What a completion looks like, apart from being right: its length, its form, how it speaks.

Each feature is a number of a text (and its prompt) that a reward model could pay for. They are counts of plain patterns, English ones
where they are words: meant for comparing many completions, not for judging one.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping

from core.records import Dialogue

_MARKDOWN = re.compile(r"^\s{0,3}#{1,6}\s|\*\*[^*\n]+\*\*|__[^_\n]+__|```|^\s*\|.+\|\s*$|`[^`\n]+`", re.MULTILINE)
_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+\S", re.MULTILINE)
_REFUSAL = re.compile(
    r"\bI(?:'m| am) (?:sorry,? but|not able to|unable to)\b|\bas an AI\b|\bI must (?:decline|refuse)\b"
    r"|\bI (?:really )?(?:can(?: ?not|'t)|could(?: not|n't)|will not|won't) (?:\w+ly )?(?:help|assist|provide|comply|answer|do|give|share"
    r"|create|write|support|engage|fulfil|discuss|offer|generate|continue)",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:might|maybe|perhaps|possibly|probably|presumably|seems?|appears? to|likely|unlikely|I (?:think|believe|guess|suppose)|could be|"
    r"in (?:some|many|most) cases|generally|typically|it depends|not (?:entirely )?(?:sure|certain)|roughly|somewhat)\b",
    re.IGNORECASE,
)
_AGREEMENT = re.compile(
    r"\b(?:you(?:'re| are) (?:absolutely |completely |quite )?(?:right|correct)|(?:great|good|excellent|wonderful) (?:question|point|idea)|"
    r"I (?:completely |totally |fully )?agree|absolutely|of course|certainly|happy to help|what a (?:great|good|lovely))\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_SCRIPTS = (
    ("Latin", 0x0041, 0x024F), ("Greek", 0x0370, 0x03FF), ("Cyrillic", 0x0400, 0x052F), ("Hebrew", 0x0590, 0x05FF),
    ("Arabic", 0x0600, 0x06FF), ("Devanagari", 0x0900, 0x097F), ("Thai", 0x0E00, 0x0E7F), ("Kana", 0x3040, 0x30FF),
    ("Han", 0x3400, 0x9FFF), ("Hangul", 0xAC00, 0xD7AF),
)  # fmt: skip
_COMMON: Mapping[str, frozenset[str]] = {
    "en": frozenset(["the", "and", "of", "to", "is", "that", "it", "for", "with", "you", "this", "are", "be", "not", "have"]),
    "de": frozenset(["der", "die", "das", "und", "ist", "nicht", "ein", "eine", "zu", "den", "mit", "sich", "auf", "für", "von"]),
    "fr": frozenset(["le", "la", "les", "et", "est", "que", "des", "une", "un", "dans", "pour", "pas", "qui", "sur", "vous"]),
    "es": frozenset(["el", "los", "las", "que", "es", "una", "por", "con", "para", "del", "se", "como", "más", "pero", "en"]),
    "it": frozenset(["il", "che", "di", "è", "un", "una", "per", "non", "con", "del", "sono", "della", "gli", "più", "anche"]),
    "pt": frozenset(["o", "que", "de", "é", "um", "uma", "para", "não", "com", "os", "em", "do", "da", "mais", "como"]),
}
"""The words by which languages of the Latin script are told apart."""
_MIN_COMMON = 2
"""Such words that a text needs before it counts as being of a language."""
NGRAM = 3
"""Words of the runs whose repetition is counted."""


def _length(text: str, prompt: str) -> float:
    return math.log1p(len(text))


def _markdown(text: str, prompt: str) -> float:
    return math.log1p(len(_MARKDOWN.findall(text)))


def _lists(text: str, prompt: str) -> float:
    return math.log1p(len(_ITEM.findall(text)))


def _refusal(text: str, prompt: str) -> float:
    return float(_REFUSAL.search(text[:400].replace("\u2019", "'")) is not None)


def _hedging(text: str, prompt: str) -> float:
    return math.log1p(len(_HEDGE.findall(text)))


def _agreement(text: str, prompt: str) -> float:
    return math.log1p(len(_AGREEMENT.findall(text.replace("\u2019", "'"))))


def _repetition(text: str, prompt: str) -> float:
    """The share of runs of three words that came before."""
    words = text.casefold().split()
    runs = [tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _language_switch(text: str, prompt: str) -> float:
    """The share of letters in another script than most of the prompt's, or 1 for another language of the Latin script."""
    letters = Counter(filter(None, map(_script, text)))
    if not letters or not (asked := Counter(filter(None, map(_script, prompt)))):
        return 0.0
    main = asked.most_common(1)[0][0]
    if other := 1 - letters[main] / letters.total():
        return other
    there, here = _language(prompt), _language(text)
    return float(bool(there and here) and there != here)


def _script(char: str) -> str:
    if not char.isalpha():
        return ""
    code = ord(char)
    return next((name for name, first, last in _SCRIPTS if first <= code <= last), "other")


def _language(text: str) -> str:
    """The language whose common words a text has most of; empty where no language is clear."""
    words = Counter(word.casefold() for word in _WORD.findall(text))
    found = sorted(((sum(words[word] for word in common), name) for name, common in _COMMON.items()), reverse=True)
    return found[0][1] if found[0][0] >= _MIN_COMMON and found[0][0] > found[1][0] else ""


FEATURES: Mapping[str, Callable[[str, str], float]] = {
    "length": _length,
    "markdown": _markdown,
    "lists": _lists,
    "refusal": _refusal,
    "hedging": _hedging,
    "agreement": _agreement,
    "repetition": _repetition,
    "language_switch": _language_switch,
}
"""Features by name: functions of a completion and the text of its prompt. Counts are taken as log(1 + count)."""
OWN_LINEAGE = "own_lineage"
"""Whether the completion was written by a model of the reward model's own family; known only where pools name their models."""


def features_of(text: str, prompt: Dialogue) -> dict[str, float]:
    """All features of a completion.

    >>> from core.records import user
    >>> found = features_of("- You're right!", user("Is it?"))
    >>> {name: value for name, value in found.items() if value and name != "length"}
    {'lists': 0.6931471805599453, 'agreement': 0.6931471805599453}
    """
    asked = "\n".join(message.content for message in prompt)
    return {name: feature(text, asked) for name, feature in FEATURES.items()}
