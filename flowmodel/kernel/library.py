"""The compiled libraries: one for each instruction set, of which the best that this processor runs is loaded."""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import os
from pathlib import Path

import torch

from flowmodel.errors import ArgumentError

SWITCH = "FLOWMODEL_NATIVE"

_FOLDER = Path(__file__).parent

INSTRUCTION_SETS = {"AVX512": ("avx512", "avx2", "generic"), "AVX2": ("avx2", "generic")}
"""What torch calls a processor, and the libraries that it runs, the fastest first."""

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int
_DOUBLE = ctypes.c_double
_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "flow_new": (_POINTER, [_INT, _INT, _INT]),
    "flow_delete": (None, [_POINTER]),
    "flow_permutation": (None, [_POINTER, _POINTER]),
    "flow_elementwise": (None, [_POINTER, _INT]),
    "flow_autoregressive": (None, [_POINTER, _INT, _INT, _INT, _POINTER]),
    "flow_affine": (None, [_POINTER, _INT, _INT, _DOUBLE, _DOUBLE]),
    "flow_spline": (None, [_POINTER, _INT, _INT, _DOUBLE, _DOUBLE]),
    "flow_values": (None, [_POINTER, _POINTER]),
    "flow_linear": (None, [_POINTER, _INT, _INT, _POINTER, _POINTER, _POINTER]),
    "flow_context": (None, [_POINTER, _POINTER]),
    "flow_skip": (None, [_POINTER, _POINTER]),
    "flow_columns": (None, [_POINTER, _INT, _INT, _DOUBLE, _POINTER, _POINTER, _POINTER, _POINTER]),
    "flow_fixed": (None, [_POINTER, _INT, _INT, _POINTER, _POINTER, _POINTER]),
    "flow_standardize_context": (None, [_POINTER, _POINTER, _POINTER]),
    "flow_base": (None, [_POINTER, _INT, _POINTER, _POINTER, _POINTER, _DOUBLE]),
    "flow_mixture": (None, [_POINTER, _INT, _INT, _POINTER, _POINTER, _POINTER, _POINTER]),
    "flow_finish": (None, [_POINTER, _POINTER, _INT]),
    "flow_log_prob": (None, [_POINTER, _POINTER, _INT, _POINTER, ctypes.c_int64, _INT, _POINTER]),
    "flow_sample": (None, [_POINTER, _POINTER, _POINTER, ctypes.c_int64, _INT, _POINTER, _POINTER]),
    "noise_normal": (None, [_POINTER, ctypes.c_int64, ctypes.c_int64, _INT, _POINTER]),
    "layer_crew": (None, [_POINTER]),
    "layer_saved_size": (ctypes.c_int64, [_POINTER, ctypes.c_int64]),
    "layer_forward": (_INT, [*[_POINTER] * 3, _INT, _POINTER, _POINTER, ctypes.c_int64, _INT, *[_POINTER] * 3]),
    "layer_backward": (_INT, [*[_POINTER] * 3, _INT, _POINTER, _POINTER, ctypes.c_int64, _INT, *[_POINTER] * 5]),
}


def switched_on() -> bool:
    """Whether native code may be used: unless the environment variable ``FLOWMODEL_NATIVE`` is 0.

    Raises:
        ArgumentError: the variable is neither 0 nor 1.
    """
    value = os.environ.get(SWITCH, "1")
    if value not in ("0", "1"):
        raise ArgumentError(f"{SWITCH}={value!r} given; expected 1 (the default), or 0 to do without native code")
    return value == "1"


def available() -> list[str]:
    """The compiled libraries that this processor runs, the fastest first.

    None where there was no compiler, and none where :func:`switched_on` says no.
    """
    if not switched_on():
        return []
    runs = INSTRUCTION_SETS.get(torch.backends.cpu.get_cpu_capability(), ("generic",))
    return [name for name in runs if _path(name) is not None]


@functools.cache
def load(name: str, *, locked: bool = False) -> ctypes.CDLL:
    """Load one library.

    Args:
        name: one of :func:`available`.
        locked: its functions keep the interpreter lock, and other threads wait until they are done.

    Raises:
        OSError: there is no such library, or it cannot be loaded.
    """
    path = _path(name)
    if path is None:
        raise OSError(f"the native library {name!r} was not compiled; available: {', '.join(available()) or 'none'}")
    library = (ctypes.PyDLL if locked else ctypes.CDLL)(os.fspath(path))
    try:
        for function, (result, arguments) in _SIGNATURES.items():
            getattr(library, function).restype = result
            getattr(library, function).argtypes = arguments
    except AttributeError as error:
        raise OSError(
            f"the native library {path} was compiled from an older source ({error}); "
            f"install the package again, or set {SWITCH}=0"
        ) from None
    library.layer_crew(torch_crew())
    return library


def torch_crew() -> int | None:
    """Where ``GOMP_parallel`` is, by which the OpenMP that torch computes with runs a function in its threads.

    None where torch does without OpenMP, or it has no such function.
    """
    try:
        torch_libraries = ctypes.CDLL(os.fspath(Path(torch.__file__).parent / "lib" / "libtorch_global_deps.so"))
        return ctypes.cast(torch_libraries.GOMP_parallel, _POINTER).value
    except (OSError, AttributeError):
        return None


def _path(name: str) -> Path | None:
    paths = (_FOLDER / f"walk_{name}{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((path for path in paths if path.is_file()), None)
