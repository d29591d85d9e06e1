"""The admin API: which versions answer, and the end of the service, over HTTP on a port of its own."""
