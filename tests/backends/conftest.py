"""Every test here runs the JAX backend with its shape annotations enforced (jaxtyping + beartype).

The hook must be in place before the first import of the module, hence this file.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Hundreds of tiny programs run once each: LLVM's optimiser would take two thirds of the suite's time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

from jaxtyping import install_import_hook

install_import_hook("apt_plugin.backends.jax_fusion", "beartype.beartype")
