"""Loss and gradient of one Stage-2 step on one device and on several, as programs of their own (test_two_devices).

    python -m tests.hosts.openpi.two_devices jax        forced host devices, fsdp_devices as many
    torchrun ... -m tests.hosts.openpi.two_devices torch  two gloo processes

Prints one JSON line: relative differences of loss and of the gradients' norms, and how much was really sharded.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import sys

from tests.hosts.openpi import tiny

WORDS = ["pick up", "stop", "push the cube", "pull"]


def in_jax() -> dict:
    import jax
    import numpy as np
    from flax import nnx
    from openpi.training import sharding

    with tiny.small():
        config = tiny.ours("pi05", 2)
        model = tiny.model(config)
        obs, actions = tiny.observation(config, WORDS)
    graph, state = nnx.split(model)

    def step(state, obs, actions):
        with tiny.small():
            loss = lambda m: m.compute_loss(jax.random.key(0), obs, actions, train=False).mean()  # noqa: E731
            model = nnx.merge(graph, state)
            learns = nnx.All(nnx.Param, nnx.Not(lambda path, _: path[0] == "PaliGemma" and "_1" not in str(path)))
            value, grads = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, learns))(model)
            return value, {"/".join(map(str, k)): v.value for k, v in grads.flat_state().items()}

    one = jax.jit(step)(state, obs, actions)
    mesh = sharding.make_mesh(jax.device_count())
    placed = sharding.fsdp_sharding(state, mesh, min_size_mbytes=0)  # 4 MiB would leave a tiny model whole
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(sharding.DATA_AXIS))
    split = jax.device_put(state, placed)
    with sharding.set_mesh(mesh):
        two = jax.jit(step, in_shardings=(placed, rows, rows))(split, *jax.device_put((obs, actions), rows))
    shards = [leaf.addressable_shards[0].data.size < leaf.size for leaf in jax.tree.leaves(split)]
    return summary(
        float(one[0]), float(two[0]), {n: np.asarray(g) for n, g in one[1].items()},
        {n: np.asarray(g) for n, g in two[1].items()}, devices=jax.device_count(), sharded=sum(shards),
    )  # fmt: skip


def in_torch() -> dict | None:
    import numpy as np
    import torch
    import torch.distributed as dist

    from apt_plugin.hosts.openpi.prove_torch import as_torch
    from apt_plugin.hosts.openpi.torch_model import AptPI0Pytorch

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    with tiny.small():
        config = tiny.ours("pi05", 2)
        model = AptPI0Pytorch(config).eval()
        obs, actions = tiny.observation(config, WORDS)
    for name, p in model.named_parameters():
        if "apt_" not in name:  # open up what starts at zero
            p.data += 0.05 * torch.randn_like(p)
    obs, actions = as_torch(obs), torch.from_numpy(np.array(actions))
    noise, time = torch.randn(len(WORDS), 2, *actions.shape[1:]), torch.rand(len(WORDS), 2)

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, obs, actions, noise, time):
            return self.model.errors(obs, actions, noise, time)["loss"].mean()

    def run(module, mine):
        model.zero_grad()
        from openpi.shared import array_typing as at

        with at.disable_typechecking():
            part = dataclasses.replace(
                obs,
                images={k: v[mine] for k, v in obs.images.items()},
                image_masks={k: v[mine] for k, v in obs.image_masks.items()},
                **{f.name: getattr(obs, f.name)[mine] for f in dataclasses.fields(obs) if "image" not in f.name},
            )
        loss = module(part, actions[mine], noise[mine], time[mine])
        loss.backward()
        return loss.detach(), {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None}

    alone, whole = run(Step(), slice(None))
    wrapped = torch.nn.parallel.DistributedDataParallel(Step(), find_unused_parameters=True)
    half = len(WORDS) // world
    loss, grads = run(wrapped, slice(rank * half, (rank + 1) * half))
    # Freed here: at interpreter exit its last reference holds the GIL that gloo's thread waits for, and both hang.
    del wrapped
    gc.collect()
    dist.all_reduce(loss)
    dist.destroy_process_group()
    return summary(float(alone), float(loss) / world, whole, grads, devices=world, sharded=0) if rank == 0 else None


def summary(one: float, two: float, first: dict, second: dict, **more: int) -> dict:
    import numpy as np

    assert first.keys() == second.keys()
    norms = {n: (np.linalg.norm(first[n] - second[n]), np.linalg.norm(first[n])) for n in first}
    scale = max(size for _, size in norms.values())
    return {
        "loss": abs(one - two) / abs(one), "grads": float(max(gap for gap, _ in norms.values()) / scale),
        "count": len(norms), **more,
    }  # fmt: skip


if __name__ == "__main__":
    found = in_jax() if sys.argv[1] == "jax" else in_torch()
    if found is not None:
        print("RESULT " + json.dumps(found))
