"""Tiny subjects for the Isaac GR00T tests, made with the host's own classes; nothing here is a real weight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests import processes

VLM = "nvidia/Cosmos-Reason2-2B"  # the host looks for this name, relative to the working directory
TAG = "LIBERO_PANDA"
LANGUAGE = "annotation.human.action.task_description"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>"]  # fmt: skip
TEMPLATE = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}{%- for c in m.content %}"
    "{%- if c.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else %}{{- c.text }}{%- endif %}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endfor %}"
)


def vlm(root: Path = Path(".")) -> None:
    """A Qwen3-VL with a tokenizer of single letters, so that all words differ."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
    from transformers import (
        Qwen2TokenizerFast,
        Qwen2VLImageProcessorFast,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    folder = root / VLM
    letters = {chr(c): i for i, c in enumerate([*range(32, 127), 10])}
    tok = Tokenizer(models.WordLevel({**letters, "<unk>": len(letters)}, unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    fast = Qwen2TokenizerFast(
        tokenizer_object=tok, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<unk>"
    )
    fast.add_special_tokens(
        {"additional_special_tokens": [AddedToken(t, special=True, normalized=False) for t in SPECIAL]}
    )
    ids = {token: fast.convert_tokens_to_ids(token) for token in SPECIAL}
    shared = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    images = Qwen2VLImageProcessorFast(size={"shortest_edge": 64 * 64, "longest_edge": 64 * 64}, **shared)
    video = Qwen3VLVideoProcessor(size={"shortest_edge": 4096, "longest_edge": 25165824}, **shared)
    Qwen3VLProcessor(
        image_processor=images, tokenizer=fast, video_processor=video, chat_template=TEMPLATE
    ).save_pretrained(folder)
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 5,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 4096,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [4, 2, 2]},
            "tie_word_embeddings": True, "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 16,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32, "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    open_up(model)
    model.tie_weights()
    model.save_pretrained(folder)


def open_up(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every weight a size at which leaks and dead gates show.

    Not more than that: with a time embedding ten times too large, four integration steps multiply float32 rounding
    seventyfold (in float64 the same two layouts differ by 2e-14), and comparisons at 1e-6 would measure that.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator).to(p.dtype)
        if p.dim() > 1:
            fan = p[0].numel() if "patch_embed" in name else p.shape[-2] if name.endswith(".W") else p.shape[-1]
            table = p.dim() == 2 and name.endswith(("embed_tokens.weight", "pos_embed.weight", "_embedding.weight"))
            p.data = noise * (0.5 if table else fan**-0.5)
        else:
            p.data = p.data + 0.1 * noise


def base(folder: Path, adapter: int = 2, dropout: float = 0.1, **more: Any) -> Path:
    """A raw base checkpoint with its processor, as the public one is laid out."""
    from gr00t.configs.data.embodiment_configs import MODALITY_CONFIGS
    from gr00t.configs.model.gr00t_n1d7 import Gr00tN1d7Config
    from gr00t.model.gr00t_n1d7.gr00t_n1d7 import Gr00tN1d7
    from gr00t.model.gr00t_n1d7.processing_gr00t_n1d7 import Gr00tN1d7Processor

    block = {"positional_embeddings": None, "dropout": dropout, "final_dropout": True, "attention_head_dim": 16}
    more = {"state_dropout_prob": 0.2} | more
    if adapter:
        more["vl_self_attention_cfg"] = {**block, "num_layers": adapter, "num_attention_heads": 2}
    config = Gr00tN1d7Config(
        model_name=VLM, backbone_embedding_dim=32, select_layer=4, hidden_size=32, input_embedding_dim=32,
        max_seq_len=64, use_relative_action=True,
        diffusion_model_cfg={**block, "num_layers": 8, "num_attention_heads": 2, "norm_type": "ada_norm",
                             "output_dim": 32, "interleave_self_attention": True},
        **more,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gr00tN1d7(config, transformers_loading_kwargs={"local_files_only": True})
    open_up(model.action_head, 1)
    model.save_pretrained(folder)
    tag = "oxe_droid_relative_eef_relative_joint"
    Gr00tN1d7Processor(
        modality_configs={tag: MODALITY_CONFIGS[tag]}, statistics=None, use_percentiles=True,
        image_crop_size=[230, 230], image_target_size=[256, 256], shortest_image_edge=None, crop_fraction=None,
        model_name=VLM, max_state_dim=config.max_state_dim, max_action_dim=config.max_action_dim,
        max_action_horizon=config.action_horizon, use_albumentations=True, use_relative_action=True,
        transformers_loading_kwargs={"local_files_only": True},
    ).save_pretrained(folder)  # fmt: skip
    return folder


def published(folder: Path, source: Path) -> Path:
    """A base as it is published: shards with an index, bfloat16, tied tensors once; by the host's own save path."""
    import shutil

    from transformers import AutoModel

    model = AutoModel.from_pretrained(source).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="150KB")
    for name in ("processor_config.json", "statistics.json", "embodiment_id.json"):
        shutil.copy(source / name, folder)
    return folder


def dataset(folder: Path, episodes: int = 2, frames: int = 24, annotated: bool = True, scale: float = 1.0) -> Path:
    """A LeRobot v2.1 set in the libero layout; without annotation it has neither tasks.jsonl nor task_index.

    Args:
        scale: size of states and actions, for data whose statistics are others.
    """
    import pandas as pd

    rng = np.random.default_rng(0)
    meta = folder / "meta"
    meta.mkdir(parents=True)
    parts = {"x": (0, 1), "y": (1, 2), "z": (2, 3), "roll": (3, 4), "pitch": (4, 5), "yaw": (5, 6)}
    spans = {"state": {**parts, "gripper": (6, 8)}, "action": {**parts, "gripper": (6, 7)}}
    layout: dict[str, Any] = {
        kind: {name: {"start": a, "end": b} for name, (a, b) in span.items()} for kind, span in spans.items()
    }
    cameras = ("image", "wrist_image")
    layout["video"] = {name: {"original_key": f"observation.images.{name}"} for name in cameras}
    if annotated:
        layout["annotation"] = {"human.action.task_description": {"original_key": "task_index"}}
        tasks = ["move the block to the left", "move the block to the right"]
        (meta / "tasks.jsonl").write_text(
            "".join(json.dumps({"task_index": i, "task": t}) + "\n" for i, t in enumerate(tasks))
        )
    (meta / "modality.json").write_text(json.dumps(layout))
    rows = []
    for episode in range(episodes):
        table = {
            "observation.state": list(scale * rng.standard_normal((frames, 8)).astype(np.float32)),
            "action": list(scale * rng.standard_normal((frames, 7)).astype(np.float32)),
            "timestamp": np.arange(frames, dtype=np.float32) / 10, "frame_index": np.arange(frames),
            "episode_index": np.full(frames, episode), "index": np.arange(frames) + episode * frames,
        }  # fmt: skip
        if annotated:
            table["task_index"] = np.full(frames, episode % 2)
        path = folder / f"data/chunk-000/episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(table).to_parquet(path)
        for name in cameras:
            _video(folder / f"videos/chunk-000/observation.images.{name}/episode_{episode:06d}.mp4", frames, rng)
        rows.append({"episode_index": episode, "tasks": [], "length": frames})
    (meta / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    feature = {"dtype": "float32", "names": None}
    video = {"dtype": "video", "shape": [256, 256, 3], "names": ["height", "width", "channel"]}
    features: dict[str, Any] = {
        "observation.state": {**feature, "shape": [8]}, "action": {**feature, "shape": [7]},
        **{f"observation.images.{name}": video for name in cameras},
    }  # fmt: skip
    for name in ("timestamp", "frame_index", "episode_index", "index", *(["task_index"] if annotated else [])):
        features[name] = {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
    info = {
        "codebase_version": "v2.1", "robot_type": "tiny", "total_episodes": episodes, "fps": 10, "chunks_size": 1000,
        "total_frames": episodes * frames, "features": features,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }  # fmt: skip
    (meta / "info.json").write_text(json.dumps(info))
    return folder


def _video(path: Path, frames: int, rng: np.random.Generator) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width = stream.height = 256
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            small = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(np.kron(small, np.ones((32, 32, 1), np.uint8)), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def environment() -> dict[str, str]:
    """This checkout on the path of child processes; one thread, as the machine is shared."""
    here = str(Path(__file__).resolve().parents[3])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
    }


def finetune(
    where: Path, out: Path, *more: str, base: str = "base2", data: str = "data", before: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
) -> subprocess.CompletedProcess:  # fmt: skip
    """`apt-plugin run [before] gr00t/experiment/launch_finetune.py ... --recipe apt`, four steps a stage."""
    steps = more[more.index("--max-steps") + 1] if "--max-steps" in more else "4"
    command = [
        sys.executable, "-m", "apt_plugin", "run", *before, "gr00t/experiment/launch_finetune.py",
        "--base-model-path", base, "--dataset-path", data, "--embodiment-tag", TAG, "--output-dir", str(out),
        "--max-steps", "4", "--save-steps", "2", "--global-batch-size", "4", "--dataloader-num-workers", "0",
        "--num-shards-per-epoch", "10", "--episode-sampling-rate", "1.0", "--recipe", "apt", "--apt.listen", "0",
        "--apt.stage1.max-steps", steps, "--apt.stage2.max-steps", steps, *more,
    ]  # fmt: skip
    env = environment() | (environ or {})
    return processes.run(command, cwd=where, env=env)


def observation(where: Path, text: str) -> dict[str, Any]:
    """One frame of the data set, as a policy takes it."""
    from gr00t.configs.data.embodiment_configs import MODALITY_CONFIGS
    from gr00t.data.dataset.lerobot_episode_loader import LeRobotEpisodeLoader
    from gr00t.data.dataset.sharded_single_step_dataset import extract_step_data
    from gr00t.data.embodiment_tags import EmbodimentTag

    modality = MODALITY_CONFIGS["libero_sim"]
    step = extract_step_data(LeRobotEpisodeLoader(where / "data", modality)[0], 5, modality, EmbodimentTag[TAG])
    return {
        "video": {k: np.stack(v).astype(np.uint8)[None] for k, v in step.images.items()},
        "state": {k: v.astype(np.float32)[None] for k, v in step.states.items()},
        "language": {LANGUAGE: [[text]]},
    }
