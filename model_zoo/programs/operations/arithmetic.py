"""Elementwise arithmetic, comparisons, logic, bits, casts."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from paddle2torch.model_zoo.programs.table import operation


def _is_float(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _aligned(x: Any, y: Any, axis: int) -> Any:
    """y with axes of 1 behind, so that its first axis meets `axis` of x: Paddle's older way to broadcast."""
    if axis == -1 or not isinstance(x, Tensor) or not isinstance(y, Tensor) or y.ndim >= x.ndim:
        return y
    # A tail of ones is cut off first, as Paddle does.
    shape = list(y.shape)
    while len(shape) > 1 and axis + len(shape) > x.ndim and shape[-1] == 1:
        shape.pop()
    return y.reshape(shape + [1] * (x.ndim - axis - len(shape)))


def _promoted(x: Any, y: Any) -> tuple[Any, Any]:
    """Both in the wider type where both are tensors: PyTorch leaves a tensor without axes out of that, Paddle does
    not.
    """
    if isinstance(x, Tensor) and isinstance(y, Tensor) and x.dtype != y.dtype:
        dtype = torch.promote_types(x.dtype, y.dtype)
        return x.to(dtype), y.to(dtype)
    return x, y


@operation("add", "elementwise_add", "grad_add")
def add(x: Any, y: Any, *, axis: int = -1) -> Any:
    """x + y, broadcast as numpy does; `axis` (older programs) is where the axes of y begin in x. For bool it is or."""
    x, y = _promoted(x, _aligned(x, y, axis))
    return x + y


@operation("subtract", "elementwise_sub")
def subtract(x: Any, y: Any, *, axis: int = -1) -> Any:
    """x - y."""
    x, y = _promoted(x, _aligned(x, y, axis))
    return x - y


@operation("multiply", "elementwise_mul")
def multiply(x: Any, y: Any, *, axis: int = -1) -> Any:
    """x * y; for bool it is and."""
    x, y = _promoted(x, _aligned(x, y, axis))
    return x * y


@operation("divide", "elementwise_div")
def divide(x: Any, y: Any, *, axis: int = -1) -> Tensor:
    """x / y; of integers the quotient is cut off towards zero."""
    x, y = _promoted(x, _aligned(x, y, axis))
    if any(_is_float(item) if isinstance(item, Tensor) else isinstance(item, float) for item in (x, y)):
        return torch.div(x, y)
    return torch.div(x, y, rounding_mode="trunc")


@operation("floor_divide", "elementwise_floordiv")
def floor_divide(x: Any, y: Any, *, axis: int = -1) -> Tensor:
    """The quotient, rounded down."""
    x, y = _promoted(x, _aligned(x, y, axis))
    return torch.div(x, y, rounding_mode="floor")


@operation("remainder", "elementwise_mod")
def remainder(x: Any, y: Any, *, axis: int = -1) -> Tensor:
    """What the division leaves, with the sign of y."""
    x, y = _promoted(x, _aligned(x, y, axis))
    return torch.remainder(x, y)


@operation("maximum", "elementwise_max")
def maximum(x: Any, y: Any, *, axis: int = -1) -> Tensor:
    """The larger one of each pair; NaN where one of them is NaN."""
    x, y = _tensors(x, _aligned(x, y, axis))
    return torch.maximum(x, y)


@operation("minimum", "elementwise_min")
def minimum(x: Any, y: Any, *, axis: int = -1) -> Tensor:
    """The smaller one of each pair; NaN where one of them is NaN."""
    x, y = _tensors(x, _aligned(x, y, axis))
    return torch.minimum(x, y)


@operation()
def fmax(x: Tensor, y: Tensor, *, axis: int = -1) -> Tensor:
    """The larger one of each pair; NaN only where both are."""
    return torch.fmax(*_promoted(x, _aligned(x, y, axis)))


@operation()
def fmin(x: Tensor, y: Tensor, *, axis: int = -1) -> Tensor:
    """The smaller one of each pair; NaN only where both are."""
    return torch.fmin(*_promoted(x, _aligned(x, y, axis)))


@operation("elementwise_pow")
def elementwise_pow(x: Any, y: Any, *, axis: int = -1) -> Tensor:
    """x to the power of y."""
    x, y = _tensors(x, _aligned(x, y, axis))
    return torch.pow(x, y)


@operation()
def heaviside(x: Tensor, y: Tensor, *, axis: int = -1) -> Tensor:
    """0 below zero, y at zero, 1 above."""
    x, y = _promoted(x, _aligned(x, y, axis))
    return torch.heaviside(x, y)


@operation()
def atan2(x: Tensor, y: Tensor) -> Tensor:
    """The angle of the point (y, x)."""
    return torch.atan2(*_promoted(x, y))


@operation()
def copysign(x: Tensor, y: Tensor) -> Tensor:
    """|x| with the sign of y."""
    return torch.copysign(x, y)


@operation()
def nextafter(x: Tensor, y: Tensor) -> Tensor:
    """The next number from x towards y."""
    return torch.nextafter(x, y)


def _tensors(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Both as tensors of one type; a Python number takes the other's type."""
    if not isinstance(x, Tensor):
        x = torch.scalar_tensor(x, dtype=y.dtype, device=y.device)
    if not isinstance(y, Tensor):
        y = torch.scalar_tensor(y, dtype=x.dtype, device=x.device)
    return _promoted(x, y)


@operation("scale", scalars=("scale",))
def scale_(x: Tensor, scale: Any = 1.0, *, bias: float = 0.0, bias_after_scale: bool = True) -> Tensor:
    """x * scale + bias, or (x + bias) * scale; in the type of x, to which both numbers are cast first."""
    if not _is_float(x):
        scale, bias = int(scale), int(bias)
    if bias_after_scale:
        x = x * scale if scale != 1 else x
        return x + bias if bias != 0 else x
    return (x + bias) * scale


@operation("pow", scalars=("factor",))
def pow_(x: Tensor, factor: Any = None, *, y: float = 1.0) -> Tensor:
    """x to the power of a number, which is cast to the type of x."""
    exponent = y if factor is None else factor
    return torch.pow(x, exponent if _is_float(x) else int(exponent))


@operation("increment")
def increment(x: Tensor, *, value: float = 1.0) -> Tensor:
    """x + value, in the type of x."""
    return x + (value if _is_float(x) else int(value))


@operation("add_n")
def add_n(inputs: list[Tensor]) -> Tensor:
    """The sum of several tensors."""
    total = inputs[0]
    for item in inputs[1:]:
        total = total + item
    return total


@operation("clip", scalars=("min", "max"))
def clip(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """x held between two numbers, which are cast to its type."""
    if not _is_float(x):
        limits = torch.iinfo(x.dtype)
        min = None if min is None or min <= limits.min else int(min)
        max = None if max is None or max >= limits.max else int(max)
        if min is None and max is None:
            return x
    return torch.clamp(x, min, max)


@operation("cast")
def cast(x: Tensor, *, dtype: torch.dtype) -> Tensor:
    """x in another type; a real number is cut off towards zero."""
    return x.to(dtype)


def _comparison(kind: str, function: Callable[[Any, Any], Tensor], meaning: str) -> None:
    def compare(x: Any, y: Any, *, axis: int = -1) -> Tensor:
        x, y = _tensors(x, _aligned(x, y, axis))
        return function(x, y)

    _enter(compare, kind, meaning)


def _unary(kind: str, function: Callable[[Tensor], Tensor], meaning: str) -> None:
    def compute(x: Tensor) -> Tensor:
        return function(x)

    _enter(compute, kind, meaning)


def _enter(function: Callable[..., Tensor], kind: str, meaning: str) -> None:
    name = f"{kind}_" if hasattr(builtins, kind) else kind
    function.__name__ = function.__qualname__ = name
    function.__doc__ = meaning
    globals()[name] = operation(kind)(function)


_comparison("equal", torch.eq, "x == y, each with each.")
_comparison("not_equal", torch.ne, "x != y, each with each.")
_comparison("less_than", torch.lt, "x < y, each with each.")
_comparison("less_equal", torch.le, "x <= y, each with each.")
_comparison("greater_than", torch.gt, "x > y, each with each.")
_comparison("greater_equal", torch.ge, "x >= y, each with each.")
_comparison("logical_and", torch.logical_and, "Both are true (a number is, unless it is 0).")
_comparison("logical_or", torch.logical_or, "One of both is true.")
_comparison("logical_xor", torch.logical_xor, "One of both is true, but not the other.")
_comparison("bitwise_and", torch.bitwise_and, "And of the bits.")
_comparison("bitwise_or", torch.bitwise_or, "Or of the bits.")
_comparison("bitwise_xor", torch.bitwise_xor, "Exclusive or of the bits.")

_unary("logical_not", torch.logical_not, "True where x is false or 0.")
_unary("bitwise_not", torch.bitwise_not, "All bits turned; for bool it is not.")
_unary("abs", torch.abs, "The absolute value.")
_unary("acos", torch.acos, "Arc cosine.")
_unary("acosh", torch.acosh, "Inverse hyperbolic cosine.")
_unary("angle", torch.angle, "The angle of a complex number; pi for a negative real one.")
_unary("asin", torch.asin, "Arc sine.")
_unary("asinh", torch.asinh, "Inverse hyperbolic sine.")
_unary("atan", torch.atan, "Arc tangent.")
_unary("atanh", torch.atanh, "Inverse hyperbolic tangent.")
_unary("ceil", torch.ceil, "Rounded up.")
_unary("conj", torch.conj_physical, "The conjugate of a complex number.")
_unary("cos", torch.cos, "Cosine.")
_unary("cosh", torch.cosh, "Hyperbolic cosine.")
_unary("digamma", torch.digamma, "The derivative of the logarithm of gamma.")
_unary("erf", torch.erf, "The error function.")
_unary("erfinv", torch.erfinv, "The inverse of the error function.")
_unary("exp", torch.exp, "e to the power of x.")
_unary("expm1", torch.expm1, "exp(x) - 1, also right near 0.")
_unary("floor", torch.floor, "Rounded down.")
_unary("i0", torch.i0, "The modified Bessel function of order 0.")
_unary("i0e", torch.special.i0e, "The same, times exp(-abs(x)).")
_unary("i1", torch.special.i1, "The modified Bessel function of order 1.")
_unary("i1e", torch.special.i1e, "The same, times exp(-abs(x)).")
_unary("imag", torch.imag, "The imaginary part.")
_unary("isfinite", torch.isfinite, "True where x is neither infinite nor NaN.")
_unary("isinf", torch.isinf, "True where x is infinite.")
_unary("isnan", torch.isnan, "True where x is NaN.")
_unary("gammaln", torch.lgamma, "The logarithm of the absolute value of gamma.")
_unary("lgamma", torch.lgamma, "The logarithm of the absolute value of gamma.")
_unary("log", torch.log, "The natural logarithm.")
_unary("log10", torch.log10, "The logarithm to base 10.")
_unary("log1p", torch.log1p, "log(1 + x), also right near 0.")
_unary("log2", torch.log2, "The logarithm to base 2.")
_unary("negative", torch.neg, "-x.")
_unary("real", torch.real, "The real part.")
_unary("reciprocal", torch.reciprocal, "1 / x.")
_unary("rsqrt", torch.rsqrt, "1 / sqrt(x).")
_unary("sign", torch.sign, "-1, 0 or 1.")
_unary("sin", torch.sin, "Sine.")
_unary("sinh", torch.sinh, "Hyperbolic sine.")
_unary("sqrt", torch.sqrt, "The square root.")
_unary("square", torch.square, "x * x.")
_unary("tan", torch.tan, "Tangent.")
_unary("tanh", torch.tanh, "Hyperbolic tangent.")
_unary("trunc", torch.trunc, "Cut off towards zero.")


@operation("round")
def round_(x: Tensor, *, decimals: int = 0) -> Tensor:
    """Rounded half to even; with decimals of x * 10 ** decimals, divided again."""
    if not _is_float(x):
        return x
    factor = 10.0**decimals
    return torch.round(x * factor) / factor if decimals else torch.round(x)


@operation()
def lerp(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """x + weight * (y - x)."""
    return x + weight * (y - x)


@operation()
def logit(x: Tensor, *, eps: float = 1e-6) -> Tensor:
    """log(x / (1 - x)), x held within eps of 0 and 1; NaN outside of them where eps is 0."""
    return torch.logit(x, eps if eps else None)


@operation()
def stanh(x: Tensor, *, scale_a: float = 0.67, scale_b: float = 1.7159) -> Tensor:
    """scale_b * tanh(scale_a * x)."""
    return scale_b * torch.tanh(scale_a * x)


@operation("bitwise_left_shift")
def bitwise_left_shift(x: Tensor, y: Tensor, *, is_arithmetic: bool = True) -> Tensor:
    """Bits moved up by y places."""
    return torch.bitwise_left_shift(x, y)


@operation("bitwise_right_shift", choices={"is_arithmetic": (True,)})
def bitwise_right_shift(x: Tensor, y: Tensor, *, is_arithmetic: bool = True) -> Tensor:
    """Bits moved down by y places, the sign kept."""
    return torch.bitwise_right_shift(x, y)


@operation()
def isclose(x: Tensor, y: Tensor, rtol: Any = 1e-5, atol: Any = 1e-8, *, equal_nan: bool = False) -> Tensor:
    """|x - y| <= atol + rtol * |y|, each with each."""
    return torch.isclose(x, y, rtol=float(rtol), atol=float(atol), equal_nan=equal_nan)


@operation()
def allclose(x: Tensor, y: Tensor, rtol: Any = 1e-5, atol: Any = 1e-8, *, equal_nan: bool = False) -> Tensor:
    """Whether `isclose` holds everywhere: one bool."""
    return torch.isclose(x, y, rtol=float(rtol), atol=float(atol), equal_nan=equal_nan).all()


@operation()
def equal_all(x: Tensor, y: Tensor) -> Tensor:
    """Whether both are the same in shape and values: one bool."""
    if x.shape != y.shape:
        return torch.zeros((), dtype=torch.bool, device=x.device)
    return (x == y).all()


@operation("complex")
def complex_(real: Tensor, imag: Tensor) -> Tensor:
    """A complex tensor of both parts."""
    return torch.complex(*torch.broadcast_tensors(real, imag))


@operation()
def as_complex(x: Tensor) -> Tensor:
    """Pairs on the last axis as complex numbers."""
    return torch.view_as_complex(x.contiguous())


@operation()
def as_real(x: Tensor) -> Tensor:
    """Complex numbers as pairs on a new last axis."""
    return torch.view_as_real(x)


@operation()
def polygamma(x: Tensor, *, n: int) -> Tensor:
    """The n-th derivative of digamma."""
    return torch.polygamma(n, x)


@operation("gammaincc")
def gammaincc(x: Tensor, y: Tensor) -> Tensor:
    """The regularised upper incomplete gamma function."""
    return torch.special.gammaincc(x, y)
