"""The artefact: what the offline half writes and the online half serves."""
