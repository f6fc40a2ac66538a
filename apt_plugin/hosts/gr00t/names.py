"""Names of this adapter."""

from __future__ import annotations

# host model type -> ours. The value of `policy` in a record is the host's.
POLICIES = {"Gr00tN1d7": "Gr00tN1d7Apt"}
WEIGHTS = "model.safetensors"  # always one file, see Gr00tN1d7Apt.save_pretrained
CHILD = "apt_plugin.hosts.gr00t"
TRAIN = "gr00t.experiment.launch_finetune"
SERVE = "gr00t.eval.run_gr00t_server"
# In the place of TRAIN: the same command makes or checks the feature cache in place of training.
BUILDERS = {"apt-cache-build": "build", "apt-cache-verify": "verify"}
