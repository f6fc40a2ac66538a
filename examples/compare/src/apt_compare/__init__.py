"""`apt-compare`: many ways of training on one tabletop, at equal steps and at equal counted FLOPs.

Pure data here (arms, settings, jobs, statistics, report); `training/` and `groot/` alone import torch and the host.
"""
