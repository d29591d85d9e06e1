"""The gRPC server: converts, delegates to the gateway, answers."""
