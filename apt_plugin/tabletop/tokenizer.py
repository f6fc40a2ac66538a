"""A tokenizer for a few dozen words, in a directory, so that nothing has to be downloaded.

Words and punctuation are one token each, and so is every integer -1 to 255: π0.5 writes the discretised state
into its prompt ("Task: reach the red cube, State: 12 200 255;\\nAction: "), which is then a dozen tokens
long. (-1 is what the host writes for a state below its 1 % quantile.) It is a *fast* tokenizer: code that
separates the instruction from the rest asks for character offsets. Like PaliGemma's it puts `<bos>` first and
has no `<eos>` at the end of a prompt.

In the *plain* language these are the words of the demonstrations. The *full* one adds the unseen objects and other
words for the known ones (`words`); its additions come last, so the ids of a plain vocabulary stay what they are.
"""

from collections.abc import Sequence
from pathlib import Path

from apt_plugin.tabletop.drawing import COLOURS, SHAPES
from apt_plugin.tabletop.splits import TRAINED_COLOURS, TRAINED_SHAPES
from apt_plugin.tabletop.words import VERBS, full_words
from apt_plugin.tabletop.world import CELLS

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")  # Gemma's ids 0 to 3; the model's padding index is 0
#: Names of the table's cells, row by row; PaliGemma has such tokens for pointing, too.
LOCATIONS = tuple(f"<loc{cell:02d}>" for cell in range(CELLS * CELLS))
_PROMPT = (
    "Task",
    "State",
    "Action",
    ":",
    ",",
    ";",
    ".",
    "the",
    "a",
    "in",
    "on",
    "is",
    "and",
    "table",
    "thing",
    "any",
)


def vocabulary(language: str = "plain") -> list[str]:
    """Every token, in the order of its id; `language` is "plain" or "full"."""
    words = [*SPECIAL, *_PROMPT, *VERBS, *list(COLOURS)[:TRAINED_COLOURS], *SHAPES[:TRAINED_SHAPES], *LOCATIONS]
    words += [str(number) for number in range(-1, 256)]
    return words if language == "plain" else list(dict.fromkeys([*words, *full_words()]))


def save(directory: Path | str, language: str = "plain", more: Sequence[str] = ()) -> Path:
    """Write the tokenizer and return `directory`, which `AutoTokenizer.from_pretrained` and
    `--policy.tokenizer_name` take. A word outside the language becomes `<unk>`.

    `more`: further tokens, whose ids follow those of the language."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate([*vocabulary(language), *more])}
    inner = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    # <loc..> as one piece, words as words, each punctuation mark alone; numbers stay whole.
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"<[a-z0-9]+>|-?\w+|[^\w\s]"), behavior="removed", invert=True)
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])])
    pad, eos, bos, unk = SPECIAL
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=pad,
        eos_token=eos,
        bos_token=bos,
        unk_token=unk,
        model_max_length=512,
    )
    directory = Path(directory).absolute()
    fast.save_pretrained(directory)
    return directory
