"""See, measure and mitigate the alignment tax."""

import os
import platform

# Nobody is told of what is run here.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# Processors differ in the instructions that they have, and with them in the last digits of a sum,
# which training makes grow. All that is recorded is computed with those that each of them has; on
# matrices this small wider ones are no faster. The libraries read this when they first compute.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
    os.environ.setdefault("MKL_CBWR", "AVX2")

__version__ = "0.1.0"
