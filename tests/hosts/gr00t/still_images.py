"""A user's modality file that turns the host's random crop off, for which the host has no flag: see test_cache.py."""

from gr00t.model.gr00t_n1d7.processing_gr00t_n1d7 import Gr00tN1d7Processor

_own = Gr00tN1d7Processor.__init__


def still(self, *args, **kwargs):
    _own(self, *args, **kwargs)
    self.train_image_transform = self.eval_image_transform


Gr00tN1d7Processor.__init__ = still
