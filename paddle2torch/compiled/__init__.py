"""Networks compiled ahead of time for this CPU, and the kernels that they run."""
