"""The engine that computes in TorchServe: a child process, or one that runs elsewhere."""
