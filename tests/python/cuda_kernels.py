"""Compiles every CUDA kernel with the runtime compiler, for the GPUs that are to be had:
no GPU is needed, and what a GPU would refuse to load is refused here.

usage: cuda_kernels.py CUDA_PATH KERNELS

CUDA_PATH is what scripts/cuda-runtime.sh says, KERNELS the folder of the sources.
"""

import ctypes
import pathlib
import re
import sys

CUDA, KERNELS = map(pathlib.Path, sys.argv[1:])
ARCHITECTURES = ["sm_80", "sm_90", "sm_120"]
HEADS = {"attention": [16, 32, 64, 128]}
# Local memory that a kernel may spill its registers to, in bytes: heads of 128 dimensions
# in single precision, which only parity is proved in, take more than there are.
SPILL = {"BF16": 64, "": 8192}


def library(name):
    return ctypes.CDLL(str(CUDA / "lib" / name), mode=ctypes.RTLD_GLOBAL)


for builtins in sorted((CUDA / "lib").glob("libnvrtc-builtins.so.*")):
    library(builtins.name)
nvrtc = library(next((CUDA / "lib").glob("libnvrtc.so.*")).name)


def compiled(name, text, options):
    """The log of a compilation; an error ends the program."""
    program = ctypes.c_void_p()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, name.encode(), 0, None, None):
        sys.exit(f"{name}: the compiler takes no program")
    given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    log = log.value.decode()
    if failed:
        sys.exit(f"{name} {' '.join(options)}:\n{log}")
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    if size.value == 0:
        sys.exit(f"{name} {' '.join(options)}: no machine code")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return log


def main():
    passed = 0
    for path in sorted(KERNELS.glob("*.cu")):
        text = path.read_bytes()
        entries = text.count(b"\nENTRY(")
        for architecture in ARCHITECTURES:
            for precision in ["BF16", ""]:
                for head in HEADS.get(path.stem, [64]):
                    options = [f"--gpu-architecture={architecture}", f"-I{KERNELS}"]
                    options += [f"-DHEAD={head}", "--ptxas-options=-v"]
                    options += [f"-D{precision}"] if precision else []
                    log = compiled(path.name, text, options)
                    found = log.count("Compiling entry function")
                    if found != entries:
                        sys.exit(f"{path.name}: {found} kernels compiled of {entries}")
                    for spilled in re.findall(r"(\d+) bytes spill stores", log):
                        if int(spilled) > SPILL[precision]:
                            sys.exit(f"{path.name} {' '.join(options)}: {spilled} bytes spilled\n{log}")
                    if "warning" in log:
                        sys.exit(f"{path.name} {' '.join(options)}:\n{log}")
                    passed += 1
    print(f"{passed} passed, 0 failed")


main()
