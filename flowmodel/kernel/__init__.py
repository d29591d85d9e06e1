"""The same flow in native code: both directions at a fraction of one dense pass, for whoever has a compiler.

``flow.cpp`` is compiled when the package is installed, once for each instruction set, into libraries with a C interface
that know nothing of Python or torch. :class:`~flowmodel.kernel.native_flow.NativeFlow` fills one from the buffers of an
exported scorer. What it does not cover, and machines without the libraries, are answered by TorchScript.
"""
