"""Parts of the kernel benchmark: the machine, the clock, the flows and peers measured, targets, page and plots."""
