"""Names of this adapter."""

from __future__ import annotations

# host model type -> ours. The value of `policy` in a record is the host's.
FAMILY = "Gr00tN1d7"
POLICIES = {"Gr00tN1d7": "Gr00tN1d7Apt"}
WEIGHTS = "model.safetensors"  # always one file, see Gr00tN1d7Apt.save_pretrained
CHILD = "apt_plugin.hosts.gr00t"
TRAIN = "gr00t.experiment.launch_finetune"
TRAIN_MIXTURE = "gr00t.experiment.launch_train"  # the host's way to several embodiments in one run
SERVE = "gr00t.eval.run_gr00t_server"
CHECK = "apt-check"  # a program of ours: tells the facts of a training command's stages, see `preflight`
# In front of a training program: the same command makes or checks the feature cache in place of training.
BUILDERS = {"apt-cache-build": "build", "apt-cache-verify": "verify"}
# Where a host's folder keeps its processor: a checkpoint beside the weights, a finished run in a folder of its own.
PROCESSORS = ("processor_config.json", "processor/processor_config.json")
# Files that give the weights their meaning; sealed in the record, see `apt_plugin.seal`.
SEALED = ("processor_config.json", "statistics.json", "embodiment_id.json")
