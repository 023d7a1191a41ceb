"""Names the cffi build to setuptools, which takes it from nowhere else."""

from setuptools import setup

setup(
    cffi_modules=[
        "pyvmm/kvm/_build.py:ffibuilder",
        "pyvmm/backends/_slirp_build.py:ffibuilder",
    ]
)
