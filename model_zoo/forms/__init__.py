"""Other forms of a network, for running: folded, packed, quantized, with native kernels."""
