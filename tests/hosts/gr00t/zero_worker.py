"""One process of test_distributed.py's ZeRO-2 case: three steps of Stage 2 on its share of four samples.

Arguments: Stage-1 checkpoint, file to write. Alone it is a plain AdamW run; beside another, DeepSpeed on the host's own
ZeRO-2 settings, on gloo and the CPU.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from apt_plugin.backends.torch_groot_groups import check_sharded_groups, parameter_groups
from apt_plugin.hosts.gr00t import prove

STEPS, RATE = 3, 1e-4


def zero2() -> dict:
    import gr00t

    config = json.loads((Path(gr00t.__file__).parent / "configs/deepspeed/zero2_config.json").read_text())
    # What the trainer fills in for "auto"; and gradients travel as float32, so that equality is not about bf16.
    config |= {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1,
               "gradient_clipping": 0.0, "communication_data_type": "fp32"}  # fmt: skip
    config["fp16"]["enabled"] = config["bf16"]["enabled"] = False
    return config


def main() -> None:
    folder, out = sys.argv[1:]
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    first = prove.open_subject(folder)
    torch.manual_seed(0)
    second = first.switched()
    model = second.flow.train()
    batch = dict(second.make_batch(("push it", "pull", "lift the cup", "go"), 0, 0))
    batch = {k: v[v.shape[0] * rank // world : v.shape[0] * (rank + 1) // world] for k, v in batch.items()}
    named, names = dict(model.named_parameters()), set(model.state_dict())
    decayed = {name for name, p in named.items() if p.dim() > 1}  # as the trainer has it: no biases, no norms
    groups = parameter_groups(named, model.apt_recipe, 2, RATE, decayed)
    check_sharded_groups(groups, 2)
    optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.1)
    vlm, engine = model.apt_vlm_digest(), None
    if world > 1:
        import deepspeed

        torch.distributed.init_process_group("gloo")
        deepspeed.init_distributed("gloo")
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=zero2())
        assert engine.zero_optimization_stage() == 2
    for step in range(STEPS):
        model.apt_run.step = step
        loss = (engine or model)(dict(batch))["loss"]
        if engine is not None:
            engine.backward(loss)
            engine.step()
        else:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert model.apt_vlm_digest() == vlm  # frozen under ZeRO's flat buffers too
    assert set(model.state_dict()) == names
    if rank == 0:
        save_file({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}, out)


if __name__ == "__main__":
    main()
