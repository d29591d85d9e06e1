"""What ``bench_service.py`` is made of."""
