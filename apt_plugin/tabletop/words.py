"""What can be said on the tabletop: the plain language of the demonstrations, and other ways of saying the same.

A demonstration says "<verb> the <colour> <noun>", or "... and the <colour> <noun>" for two objects in turn. The
`wording` split says the same in words that no robot data contain but that the VLM's grounding knows (`"full"`
language in `grounding.Grounding`). A *form* chooses the wording: four integers for verb, colour, noun and template,
0 being the plain one.
"""

from functools import cache

import numpy as np

from apt_plugin.tabletop.drawing import COLOURS, SHAPES

#: verb -> does it end with closed jaws
VERBS: dict[str, bool] = {"reach": False, "grasp": True}

#: Other words for the same. "go to" and "pick up" have two tokens, so that nothing can count on positions.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "reach": ("approach", "go to"),
    "grasp": ("grab", "pick up"),
    "red": ("crimson",),
    "green": ("emerald",),
    "blue": ("azure",),
    "yellow": ("golden",),
    "purple": ("violet",),
    "white": ("ivory",),
    "cyan": ("turquoise",),
    "cube": ("block",),
    "ball": ("sphere",),
    "cone": ("pyramid",),
    "cross": ("plus",),
    "ring": ("hoop",),
    "bowl": ("dish",),
}

#: Sentences; the last one ends with the colour, so that "the last word is the noun" is no rule either.
TEMPLATES: tuple[str, ...] = (
    "{verb} the {colour} {noun}",
    "please {verb} the {colour} {noun}",
    "could you {verb} the {colour} {noun}",
    "{verb} the {noun} that is {colour}",
)

#: Choices of verb, colour, noun and template.
FORMS: tuple[int, int, int, int] = (3, 2, 2, len(TEMPLATES))
PLAIN = (0, 0, 0, 0)
#: Longest instruction in words, plain and full: "grasp the red cube"; "pick up the cube that is red" has seven,
#: "reach the red cube and the blue ring" eight.
LONGEST = {"plain": 4, "full": 8}


def ways(word: str) -> tuple[str, ...]:
    """The word itself, then its synonyms."""
    return (word, *SYNONYMS.get(word, ()))


def say(verb: str, colour: str, noun: str, form=PLAIN) -> str:
    """One instruction; words without a synonym of that number (such as "any", "thing") stay what they are."""

    def choose(word: str, which: int) -> str:
        known = ways(word)
        return known[which] if which < len(known) else word

    v, c, n, template = (int(part) for part in form)
    return TEMPLATES[template].format(verb=choose(verb, v), colour=choose(colour, c), noun=choose(noun, n))


def other_forms(rng: np.random.Generator, count: int) -> np.ndarray:
    """Forms that are never the plain one: int (count, 4), each part uniform, then "please" where all were plain."""
    forms = np.stack([rng.integers(size, size=count) for size in FORMS], axis=1)
    forms[~forms.any(axis=1), 3] = 1
    return forms


def pair_name(pair) -> str:
    """ "red cube" for a colour-shape pair of indices."""
    return f"{list(COLOURS)[int(pair[0])]} {SHAPES[int(pair[1])]}"


def full_words() -> list[str]:
    """Every single word of the full language once, in a fixed order."""
    texts = [*VERBS, *COLOURS, *SHAPES, *(way for known in SYNONYMS.values() for way in known)]
    texts += [template.format(verb="", colour="", noun="") for template in TEMPLATES]
    return list(dict.fromkeys(word for text in texts for word in text.split()))


@cache
def _meanings() -> dict[str, str]:
    return {way: word for word in (*VERBS, *COLOURS, *SHAPES) for way in ways(word)}


def parse(text: str) -> tuple[str, list[tuple[int, int]]] | None:
    """ "please pick up the red block" -> ("grasp", [(0, 0)]): the verb, and a colour-shape pair per object.

    None for anything that is not in the full language.
    """
    means, text = _meanings(), " ".join(text.lower().split())
    for polite in ("please ", "could you "):
        text = text.removeprefix(polite)
    verb, _, objects = text.partition(" the ")
    pairs = []
    for phrase in objects.split(" and the "):
        said = phrase.replace(" that is ", " ").split()
        if len(said) != 2 or not all(word in means for word in said):
            return None
        colour, noun = (means[word] for word in (reversed(said) if " that is " in phrase else said))
        if colour not in COLOURS or noun not in SHAPES:
            return None
        pairs.append((list(COLOURS).index(colour), SHAPES.index(noun)))
    return (means[verb], pairs) if means.get(verb) in VERBS and len(pairs) <= 2 else None
