"""Several gateway processes on the same ports, and the parent that starts and watches them."""
