"""The admin API: which versions answer, over HTTP on a port of its own."""
