"""What `apt-plugin --help` prints: every command once, in groups."""

OVERVIEW = """APT teaches a vision-language-action policy to listen, inside the framework that trains it.

Train
  apt-plugin run <the host's own command> --recipe apt                both stages and the proofs between them
  apt-plugin check <the same command>                                 what would stop or spoil it, before its first step
  apt-plugin trial <the host's own command>                           which way of training listens, by short runs
  apt-plugin cache build|verify|info ...                              the frozen VLM's features on disk
  apt-plugin label --policy CHECKPOINT --labelled A --unlabelled B    instructions for episodes that have none

Look at a policy
  apt-plugin listen --policy CHECKPOINT --dataset DATA                does it listen, to which words, and why not
  apt-plugin prove CHECKPOINT                                         the contracts, measured on a checkpoint
  apt-plugin export CHECKPOINT OUT                                    a stock checkpoint, where folding is exact

Try and measure
  apt-plugin demo                                                     the whole thing in a tiny world, on this CPU
  apt-plugin tabletop data|test ...                                   a benchmark for your policy, of any host and size
  apt-plugin bench pi05                                               what each way of training and acting costs

The hosts on this machine
  apt-plugin doctor                                                   what is installed, and whether it is supported
  apt-plugin patch HOST                                               patches by which a host knows --recipe apt itself

`apt-plugin COMMAND --help` explains a command, `apt-plugin run --help` every field of the recipe; --version
says which this is, `apt-plugin --tyro-print-completion bash` (or zsh, tcsh) prints completion for a shell."""

CHECK = """apt-plugin check <the host's training command> --recipe apt [--apt.* ...]

What would stop or spoil both stages later, looked at in less than a minute and without a model: the flags of both
stages by the host's own parser, the longest prompt against the token limit, warm-up and decay against the steps,
instructions for Stage 2, statistics, numbers that are none, the robot's state, disk and device memory. `apt-plugin
run` does the same before its first step. Exit status 1 where a run would be stopped. With --recipe warmup in place of
--recipe apt it looks at your own command in the same way."""
