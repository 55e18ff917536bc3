"""A process of its own in which the Triton kernels run in Triton's interpreter.

The switch must be set before Triton is imported, and would hold for everything in the process that uses Triton.
"""

import os
import pickle
import subprocess
import sys


class Interpreter:
    """``Interpreter()(op, *arguments)`` runs an operation of `triton_ops` on CPU tensors and raises its errors."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore::RuntimeWarning", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        )

    def __call__(self, op, *arguments, **named):
        pickle.dump((op, arguments, named), self._process.stdin)
        self._process.stdin.flush()
        result = pickle.load(self._process.stdout)
        if isinstance(result, Exception):
            raise result
        return result

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)


def gradients(pool, scores, values, offsets, slope):
    """(pooled, gradient of scores, of values) where ``slope`` is the gradient of the pooled."""
    scores, values = scores.clone().requires_grad_(), values.clone().requires_grad_()
    pooled = pool(scores, values, offsets)
    pooled.backward(slope)
    return pooled.detach(), scores.grad, values.grad


def _serve():
    from beph_store_kernels import triton_ops

    while True:
        try:
            op, arguments, named = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if op == "gradients":
                result = gradients(triton_ops.attention_pool, *arguments)
            else:
                result = getattr(triton_ops, op)(*arguments, **named)
        except ValueError as error:
            result = error
        pickle.dump(result, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
