"""What the programs share that tells what they measured: a figure beside its target, and tables."""
