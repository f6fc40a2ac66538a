"""A small tabletop world in which one can see, within minutes on a laptop CPU, whether a policy listens.

`world` (scenes and who names what), `splits` (the tests), `words` (the language), `episodes` (what a batch of them can
do), `arm` (dynamics, demonstrator, success) and `drawing` (camera) need numpy only; the other modules connect them to
lerobot and are imported by name where they are used.
"""
