"""Compile both directions of the kernel for an H100, which takes no GPU, and print what the program is made of."""

import json
import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from flowmodel.kernel.cuda.fused_flow import LAUNCH_OPTIONS
from flowmodel.kernel.cuda.walk import walk_flow

FLOAT64, INT32 = ("rows", "context", "numbers"), ("table",)
CONSTANTS = {"ROWS": 64, "UNITS": 128, "GROUP": 32}


def kind(name: str) -> str:
    if name.isupper():
        return "constexpr"
    if name in ("values", "log_prob", "weights", "scratch", *FLOAT64, *INT32):
        return "*fp64" if name in FLOAT64 else "*i32" if name in INT32 else "*fp32"
    return "i32"


def main() -> None:
    signature = {name: kind(name) for name in walk_flow.arg_names}
    aligned = {(walk_flow.arg_names.index(name),): [["tt.divisibility", 16]] for name in ("weights", "scratch")}
    for pull in (True, False):
        source = ASTSource(fn=walk_flow, signature=signature, constexprs={**CONSTANTS, "PULL": pull}, attrs=aligned)
        kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=LAUNCH_OPTIONS[64])
        ptx = kernel.asm["ptx"]
        counts = {
            word: len(re.findall(word, ptx)) for word in (r"fma\.rn\.f32", r"mma\.", r"ld\.global\.nc", r"bar\.sync")
        }
        json.dump({"shared": kernel.metadata.shared, **counts}, sys.stdout)
        print()


if __name__ == "__main__":
    main()
