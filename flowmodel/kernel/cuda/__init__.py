"""The same flow as one Triton kernel, for a GPU: the exact walk over the degrees, one launch for all layers.

:mod:`.layers` reads the folded parts of an exported scorer, :mod:`.packing` lays them out for the kernel, :mod:`.walk`
is the kernel with its cost model, and :class:`~flowmodel.kernel.cuda.fused_flow.FusedFlow` launches it. Triton comes
with torch's CUDA build; without it, and for flows with other parts, TorchScript answers.
"""
