"""The online half: published models behind gRPC and HTTP."""
