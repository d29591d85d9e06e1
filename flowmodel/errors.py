"""Every error the library raises on purpose, so that a caller can catch the family or the one."""

from __future__ import annotations


class FlowModelError(Exception):
    """Base of all errors raised on purpose by ``flowmodel``."""


class PlanError(FlowModelError, ValueError):
    """A plan was given a value it cannot work with, or could not be read from JSON."""


class AbstractPlanError(PlanError, TypeError):
    """A family of bijectors, such as ``Elementwise``, was called in place of one of its members."""


class ArgumentError(PlanError, TypeError):
    """An argument is missing, unknown, or of a kind that cannot be worked with; the text says what is taken."""


class UnbuiltPlanError(PlanError, AttributeError):
    """A plan was used like the bijector that is built from it."""


class DomainError(FlowModelError, ValueError):
    """What one part gives may lie where the next is not defined; the text names both ranges."""


class ShapeMismatchError(FlowModelError, ValueError):
    """Two parts, or a part and a tensor, do not fit together; the text names both shapes."""


class DtypeMismatchError(FlowModelError, TypeError):
    """A tensor's dtype or device differs from that of the parameters it meets."""


class ReparameterisationError(FlowModelError, NotImplementedError):
    """Samples were asked for with gradients, which they do not carry."""


class NoClosedFormError(FlowModelError, NotImplementedError):
    """A moment, entropy or divergence is not known in closed form; the text says how to estimate it."""


class DataError(FlowModelError, ValueError):
    """A data file or table cannot be trained on or scored; the text names file, column and row."""


class TrainingError(FlowModelError, RuntimeError):
    """Training had to stop; the text says why and what to change."""


class ArtefactError(FlowModelError):
    """A published model is damaged, or one could not be written."""


class ManifestError(ArtefactError, ValueError):
    """A manifest is malformed or of a newer format than this version reads."""


class StoreUnreachableError(ArtefactError, OSError):
    """A store that is not a directory cannot be read or written now."""


class ServingError(ArtefactError, ValueError):
    """A choice of versions that cannot be served, or the file that holds it cannot be read."""


class ModelNotFoundError(ArtefactError, LookupError):
    """The store holds no such model or no such version."""


class ExportError(ArtefactError):
    """The exported scorer disagrees with the eager flow, or the flow holds a part that cannot be exported."""
