"""What a tiny Qwen3-VL reads the tabletop with: tokenizer, chat template and image processors, in a directory.

lerobot's groot processor turns a frame into one chat message, images first, then the instruction in lower case and
without punctuation:

    <|im_start|> user \\n <|vision_start|> <|image_pad|> x 9 <|vision_end|> reach the red cube <|im_end|> \\n

Every word is one token. The robot's state is no part of the prompt (GR00T's action head reads it), so there are no
numbers here.
"""

from pathlib import Path
from typing import Any

from apt_plugin.tabletop import tokenizer
from apt_plugin.tabletop.drawing import IMAGE_SIZE

#: Qwen's special tokens; the first one pads.
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
IMAGE, START, END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
#: What the host says where a data set has no instruction (lerobot `groot/utils.py`: "Perform the task.").
NO_INSTRUCTION = "perform the task"

_TEMPLATE = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}{%- for c in m.content %}"
    "{%- if c.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else %}{{- c.text }}{%- endif %}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endfor %}"
)


def vocabulary() -> list[str]:
    """Every token, in the order of its id: Qwen's special ones, the scaffolding, the words of the full language."""
    words = [word for word in tokenizer.vocabulary("full") if not word.lstrip("-").isdigit()]
    words = [word for word in words if word not in tokenizer.SPECIAL]
    return list(dict.fromkeys([*SPECIAL, "<unk>", "user", "\n", *NO_INSTRUCTION.split(), *words]))


def prompt(instruction: str, cells: int) -> list[int]:
    """The host's token ids for one camera of `cells` image tokens and an instruction.

    Raises:
        KeyError: a word that the vocabulary lacks; the host's tokenizer would say <unk>.
    """
    ids = {word: index for index, word in enumerate(vocabulary())}
    before = ["<|im_start|>", "user", "\n", START, *[IMAGE] * cells, END]
    return [ids[word] for word in [*before, *instruction.lower().split(), "<|im_end|>", "\n"]]


def save(directory: Path | str, patch: int) -> Path:
    """Write tokenizer and image processors of a Qwen3-VL that sees one token a `patch` x `patch` pixels.

    Returns:
        `directory`, absolute; what the host's `from_pretrained` calls take.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessor, Qwen3VLVideoProcessor

    directory = Path(directory).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary())}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"<[a-z0-9]+>|\w+|\n|[^\w\s]"), behavior="removed", invert=True)
    inner.add_special_tokens(list(SPECIAL))
    PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        unk_token="<unk>",
        additional_special_tokens=list(SPECIAL),
        chat_template=_TEMPLATE,
        image_token=IMAGE,
        video_token="<|video_pad|>",
        vision_start_token=START,
        vision_end_token=END,
    ).save_pretrained(directory)
    grid: dict[str, Any] = {"patch_size": patch, "temporal_patch_size": TEMPORAL, "merge_size": 1}
    scale: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    area = {"shortest_edge": IMAGE_SIZE**2, "longest_edge": IMAGE_SIZE**2}  # the host's names for least and most pixels
    Qwen2VLImageProcessor(size=area, **grid, **scale).save_pretrained(directory)
    Qwen3VLVideoProcessor(**grid, **scale).save_pretrained(directory)
    return directory


#: Frames in a patch. Qwen3-VL reads videos two frames a patch and shows a still image twice; one is half the work.
TEMPORAL = 1
