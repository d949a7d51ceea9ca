"""The languages that PaddleOCR lists: its names for them, and what else they are called.

Source: PaddleOCR `paddleocr.py` (2.x) and `paddleocr/_pipelines/ocr.py` (3.x); ISO 639 codes where they differ.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from paddle2torch.model_zoo.errors import ConfigError

# PaddleOCR's name of each language, as the cards have it, and its name in English.
LANGUAGES: Mapping[str, str] = {
    "ch": "Chinese",
    "chinese_cht": "Traditional Chinese",
    "en": "English",
    "japan": "Japanese",
    "korean": "Korean",
    "el": "Greek",
    "ka": "Kannada",
    "ta": "Tamil",
    "te": "Telugu",
    "th": "Thai",
    # In Latin letters.
    "af": "Afrikaans",
    "az": "Azerbaijani",
    "bs": "Bosnian",
    "ca": "Catalan",
    "cs": "Czech",
    "cy": "Welsh",
    "da": "Danish",
    "de": "German",
    "es": "Spanish",
    "et": "Estonian",
    "eu": "Basque",
    "fi": "Finnish",
    "fr": "French",
    "ga": "Irish",
    "gl": "Galician",
    "hr": "Croatian",
    "hu": "Hungarian",
    "id": "Indonesian",
    "is": "Icelandic",
    "it": "Italian",
    "ku": "Kurdish",
    "la": "Latin",
    "lb": "Luxembourgish",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "mi": "Maori",
    "ms": "Malay",
    "mt": "Maltese",
    "nl": "Dutch",
    "no": "Norwegian",
    "oc": "Occitan",
    "pi": "Pali",
    "pl": "Polish",
    "pt": "Portuguese",
    "qu": "Quechua",
    "rm": "Romansh",
    "ro": "Romanian",
    "rs_latin": "Serbian in Latin letters",
    "sk": "Slovak",
    "sl": "Slovenian",
    "sq": "Albanian",
    "sv": "Swedish",
    "sw": "Swahili",
    "tl": "Tagalog",
    "tr": "Turkish",
    "uz": "Uzbek",
    "vi": "Vietnamese",
    # In Arabic letters.
    "ar": "Arabic",
    "bal": "Balochi",
    "fa": "Persian",
    "ps": "Pashto",
    "sd": "Sindhi",
    "ug": "Uyghur",
    "ur": "Urdu",
    # In Cyrillic letters.
    "abq": "Abaza",
    "ady": "Adyghe",
    "ava": "Avar",
    "ba": "Bashkir",
    "be": "Belarusian",
    "bg": "Bulgarian",
    "bua": "Buryat",
    "che": "Chechen",
    "cv": "Chuvash",
    "dar": "Dargwa",
    "inh": "Ingush",
    "kaa": "Karakalpak",
    "kbd": "Kabardian",
    "kk": "Kazakh",
    "kv": "Komi",
    "ky": "Kyrgyz",
    "lbe": "Lak",
    "lez": "Lezgian",
    "mhr": "Eastern Mari",
    "mk": "Macedonian",
    "mn": "Mongolian",
    "mo": "Moldovan",
    "os": "Ossetian",
    "rs_cyrillic": "Serbian",
    "ru": "Russian",
    "sah": "Yakut",
    "tab": "Tabasaran",
    "tg": "Tajik",
    "tt": "Tatar",
    "tyv": "Tuvan",
    "udm": "Udmurt",
    "uk": "Ukrainian",
    "xal": "Kalmyk",
    # In Devanagari.
    "ang": "Angika",
    "bgc": "Haryanvi",
    "bh": "Bihari",
    "bho": "Bhojpuri",
    "gom": "Goan Konkani",
    "hi": "Hindi",
    "mah": "Magahi",
    "mai": "Maithili",
    "mr": "Marathi",
    "ne": "Nepali",
    "new": "Newari",
    "sa": "Sanskrit",
    "sck": "Sadri",
}

# Other names that PaddleOCR takes, and codes of ISO 639 that are not its own.
ALIASES: Mapping[str, str] = {
    "french": "fr",
    "german": "de",
    "zh": "ch",
    "ja": "japan",
    "ko": "korean",
    "kn": "ka",
    "sr": "rs_cyrillic",
}

# PaddleOCR's names of scripts, and the language here for each: one that no other recogniser reads.
SCRIPTS: Mapping[str, str] = {"latin": "fr", "arabic": "ar", "cyrillic": "bg", "devanagari": "hi"}


def find_language(name: str) -> str:
    """PaddleOCR's name of a language, as the cards have it, from any of its names; case does not matter.

    Raises `ConfigError` with the nearest names.
    """
    names = _names()
    lowered = name.strip().lower()
    if lowered in names:
        return names[lowered]
    near = _nearest(lowered, names)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(LANGUAGES)}, {', '.join(SCRIPTS)}"
    raise ConfigError(f"no language is called {name!r}; {hint}")


# Languages of BCP 47 and ISO 639 that PaddleOCR calls otherwise. Its "ka" and "mah" are other languages there.
_TAGS: Mapping[str, str] = {
    **{"zh": "ch", "ja": "japan", "ko": "korean", "kn": "ka", "sr": "rs_cyrillic", "mag": "mah", "av": "ava"},
    **{"ce": "che", "nb": "no", "nn": "no", "fil": "tl"},
}
_OTHERS = frozenset({"ka", "mah"})


def language_of_tag(tag: str) -> str:
    """PaddleOCR's name of a language from a tag of BCP 47 ("de", "zh-Hant"), or Tesseract's name ("deu", "chi_tra").

    Raises `ConfigError` for a language that PaddleOCR does not read. Needs langcodes.
    """
    import langcodes

    try:
        found = langcodes.Language.get(tag.replace("chi_sim", "zh-Hans").replace("chi_tra", "zh-Hant"))
    except ValueError as error:
        raise ConfigError(f"{tag!r} is not a language tag: {error}") from None
    language = str(found.language)
    if language == "zh" and (found.script == "Hant" or found.territory in ("TW", "HK", "MO")):
        return "chinese_cht"
    if language == "sr" and found.script == "Latn":
        return "rs_latin"
    name = _TAGS.get(language, language)
    if language in _OTHERS or name not in LANGUAGES:
        raise ConfigError(f"PaddleOCR has no model that reads {tag!r}")
    return name


def _names() -> dict[str, str]:
    """Every name in lower case. Where one is a script as well as a language ("latin"), PaddleOCR means the script."""
    english = {text.lower(): code for code, text in LANGUAGES.items()}
    return {**english, **ALIASES, **SCRIPTS, **{code: code for code in LANGUAGES}}


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    # Short names are all alike.
    return difflib.get_close_matches(name, [other for other in known if len(other) > 2], n=3)
