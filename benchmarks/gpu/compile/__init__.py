"""Compiling for a GPU that is not there, and counting what it would do.

XLA compiles for an NVIDIA GPU from a description of it (`target`): no driver and no
device are needed. What it would launch stands in files that it writes on request
(`thunks`), and what each launch computes in the optimized program (`hlo`). `count` puts
them together, `estimate` makes a time of them, `programs` says what is compiled, and
`command` is ``python -m benchmarks.gpu --stage compile``.
"""
