"""How loops over many codes are compiled: by numba, at their first run, without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a function when it first runs; keep what was compiled where some folder can be written."""
    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        result: _Function = numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can
        result = numba.njit(**settings)(function)
    return result


def _make_count_bits(typing_context: Any, word: Any) -> Any:  # noqa: ARG001
    return types.int64(word), lambda context, builder, signature, arguments: builder.ctpop(arguments[0])  # noqa: ARG005


count_bits: Any = intrinsic(_make_count_bits)
"""Of a word of 64, by the processor's instruction; in compiled functions only."""


def _make_prefetch(typing_context: Any, array: Any, row: Any) -> Any:  # noqa: ARG001
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = make_array(signature.args[0])(context, builder, arguments[0])  # type: ignore[no-untyped-call]
        row_bytes = cgutils.unpack_tuple(builder, view.strides)[0]  # type: ignore[no-untyped-call]
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        name = "llvm.prefetch.p0i8"
        function = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
        read, keep, data = (ir.Constant(number, value) for value in (0, 3, 1))
        place = builder.gep(builder.bitcast(view.data, byte), [builder.mul(arguments[1], row_bytes)])
        builder.call(function, [place, read, keep, data])
        return context.get_dummy_value()

    return types.none(array, types.uint64), emit


prefetch: Any = intrinsic(_make_prefetch)
"""Ask for a row of an array, so that it is in the cache soon; in compiled functions only."""
