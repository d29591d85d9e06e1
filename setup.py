"""The native libraries; everything else about the package is said in pyproject.toml.

Each is optional: where there is no compiler, or it does not know an instruction set, the package installs without it.
"""

import glob
import platform

from setuptools import Extension, setup

FLAGS = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wno-psabi",
    "-pthread",
]
VARIANTS = {"generic": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    VARIANTS |= {"avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4"]}

setup(
    ext_modules=[
        Extension(
            f"flowmodel.kernel.walk_{name}",
            sources=["flowmodel/kernel/flow.cpp", "flowmodel/kernel/training.cpp"],
            depends=sorted(glob.glob("flowmodel/kernel/*.hpp")),
            extra_compile_args=[*FLAGS, *flags],
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,
        )
        for name, flags in VARIANTS.items()
    ]
)
