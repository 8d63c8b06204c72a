"""Numbers that a device computes and the host reads later, without waiting."""

import torch
from torch import Tensor


class Late:
    """Numbers that a device computes now and the host looks at later.

    They travel to the host as soon as they are known. Who looks while the device is busy with what
    it was given since leaves it busy.
    """

    def __init__(self, numbers: Tensor):
        on_gpu = numbers.is_cuda
        self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=on_gpu)
        self._numbers.copy_(numbers, non_blocking=on_gpu)
        self._copied = torch.cuda.Event() if on_gpu else None
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(numbers.device))

    @property
    def at_once(self) -> bool:
        """Whether they are there already: a CPU has computed what it was asked for."""
        return self._copied is None

    def __call__(self) -> list:
        """The numbers."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._numbers.numpy().tolist()
