"""`apt-libero`: the comparison's first arms on real LIBERO, beside the plugin, which knows nothing of it.

    plan      which demonstrations a data set has      expert    who gives them
    scene     lerobot's LIBERO environment, recorded   record    each demonstration once, in a file of its own
    pack      them as a LeRobotDataset

`plan` and `expert` are pure; the others need lerobot, `record` and `scene` LIBERO, too.
"""
