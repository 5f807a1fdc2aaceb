"""Languages that a text is held against beside the run's own, which would else be the nearest answer."""

from __future__ import annotations

# Languages that a text of the first is taken for, or that are taken for it, where only one of the two is known.
NEIGHBOURS: dict[str, tuple[str, ...]] = {
    "af": ("nl", "de"),
    "az": ("tr",),
    "be": ("ru", "uk"),
    "bg": ("mk", "ru"),
    "bs": ("sl", "cs"),
    "ca": ("es", "fr", "pt", "it"),
    "cs": ("sk", "pl"),
    "cy": ("ga",),
    "da": ("nb", "sv", "nl"),
    "de": ("nl", "da"),
    "es": ("pt", "ca", "it"),
    "et": ("fi",),
    "eu": ("es",),
    "fa": ("ar", "ur"),
    "fi": ("et",),
    "fr": ("ca", "it"),
    "ga": ("cy",),
    "hi": ("mr",),
    "hr": ("sl", "cs"),
    "id": ("ms", "tl"),
    "is": ("da", "sv"),
    "it": ("es", "pt", "ca", "ro"),
    "kk": ("mn", "ru"),
    "la": ("it", "es"),
    "lt": ("lv",),
    "lv": ("lt",),
    "mk": ("bg", "sr"),
    "mr": ("hi",),
    "ms": ("id", "tl"),
    "mn": ("kk", "ru"),
    "nb": ("da", "sv"),
    "nl": ("af", "de", "da"),
    "nn": ("da", "sv"),
    "pl": ("cs", "sk"),
    "pt": ("es", "ca", "it"),
    "ro": ("it", "ca"),
    "ru": ("uk", "be", "bg"),
    "sk": ("cs", "pl", "sl"),
    "sl": ("hr", "sk"),
    "sn": ("sw", "zu"),
    "so": ("sw",),
    "sq": ("it",),
    "sr": ("mk", "bg"),
    "st": ("tn", "ts", "zu"),
    "sv": ("da", "nb"),
    "sw": ("zu", "so", "sn", "lg"),
    "tl": ("id", "ms"),
    "tn": ("st", "ts"),
    "tr": ("az",),
    "ts": ("zu", "tn", "st"),
    "uk": ("ru", "be"),
    "ur": ("fa", "ar"),
    "xh": ("zu",),
    "yo": (),
    "zu": ("xh", "sw", "sn"),
}

# What a model falls back to, in each script.
COMMON: dict[str, tuple[str, ...]] = {
    "Latn": ("en", "es", "pt", "fr", "de", "it", "pl", "tr", "id"),
    "Cyrl": ("ru", "uk", "bg"),
    "Arab": ("ar", "fa", "ur"),
    "Deva": ("hi", "mr"),
}

# Standards of one language, that no model tells apart by a sentence: either is right where one is asked for.
SAME: tuple[frozenset[str], ...] = (frozenset({"bs", "hr", "sr-Latn"}), frozenset({"nb", "nn"}))
