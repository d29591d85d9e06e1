"""What scores a published model, and travels with it: the standard library, numpy and torch alone.

These modules go into every ``.mar`` as they are, so they import nothing else of this project, and each other only
relatively.
"""
