"""Training and evaluation of the comparison's arms on lerobot's own classes, in this process, on the CPU."""
