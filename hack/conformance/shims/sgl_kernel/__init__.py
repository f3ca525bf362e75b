"""In place of SGLang's compiled kernels, which there are only for GPUs and for CPUs with AMX.

SGLang imports their names whatever it runs on, and calls none of them with the options of the exam's recipe: it takes torch's
own operators. A kernel that is called all the same says so. LoRA layers ask for pinned memory, which only a GPU has a use for;
they are given ordinary memory.
"""

import functools

import torch

__version__ = "0"

MAKERS = ("arange", "empty", "empty_like", "full", "ones", "tensor", "zeros", "zeros_like")


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def kernel(*_args, **_options):
        raise NotImplementedError(f"sgl_kernel.{name} is not there: this machine has neither a GPU nor AMX")

    return kernel


def _unpinned(make):
    @functools.wraps(make)
    def made(*args, **options):
        options.pop("pin_memory", None)
        return make(*args, **options)

    return made


torch.Tensor.pin_memory = lambda self, *_args, **_options: self
for maker in MAKERS:
    setattr(torch, maker, _unpinned(getattr(torch, maker)))
