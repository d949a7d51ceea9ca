"""A `.pdmodel` of any network, read into a `Graph`.

A legacy program assigns to variables, also to those of blocks around; a `Graph` makes every value once. So the
operations
are read in order with a table of what each variable is now:

- an operation that writes a variable gives it a new value ("x", then "x@1");
- `while` hands in what its block assigns of the outside, and gives the values after the last turn;
- `conditional_block` becomes an "if" whose second branch leaves the variables as they were; where there was none
before,
  it gives nothing, and the `select_input` behind chooses the other one;
- an array of tensors is made where it is first written to.

`_SLOTS` says for each kind which slots are its operands, in PIR's order; a constant that a slot replaces comes as an
operation of its own, as in PIR. A slot that is filled and not on the list is refused: nothing is left out in silence.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from paddle2torch.converters.paddle_files import protobuf
from paddle2torch.converters.paddle_files.files import map_file
from paddle2torch.converters.paddle_files.pdiparams import DTYPES, read_tensor_desc
from paddle2torch.converters.paddle_files.pdmodel import BlockReference, read_arguments, read_attribute
from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.model_zoo.programs.graph import (
    BLOCKS_DEEP_AT_MOST,
    DIMENSIONS_AT_MOST,
    MEMBERS_AT_MOST,
    OPERATIONS_AT_MOST,
    SIZE_AT_MOST,
    Block,
    Graph,
    Node,
    Operand,
    TensorType,
)
from paddle2torch.model_zoo.programs.operations import TABLE

_SIZE_AT_MOST = 64 << 20  # with call stacks; the fields themselves are counted
_FIELDS_AT_MOST = 1_000_000  # 25 times those of the largest PP-OCR programs
_BLOCKS_AT_MOST = 10_000
_DENSE_TENSOR, _ARRAY = 7, 13

# Kind of the file -> (PIR's kind, operands, results, attributes under another name).
# An operand is the first slot of several that is filled; "*" a list, "@" an attribute as integers, "%" as one number.
_Slots = tuple[str, str, str, Mapping[str, str]]
_REDUCED = {"dim": "axis", "keep_dim": "keepdim"}
_FILTERS = {"data_layout": "data_format"}
_RESIZE = ("X OutSize SizeTensor* Scale", "Out", {"data_layout": "data_format"})
_PUT = {"Axis": "axis", "Reduce": "reduce", "Include_self": "include_self"}
_STARTS = "StartsTensor|StartsTensorList*|@starts EndsTensor|EndsTensorList*|@ends"
_SLOTS: dict[str, _Slots] = {
    **{
        old: (new, "X Y", "Out", {})
        for old, new in (
            ("elementwise_add", "add"),
            ("elementwise_div", "divide"),
            ("elementwise_floordiv", "floor_divide"),
            ("elementwise_fmax", "fmax"),
            ("elementwise_fmin", "fmin"),
            ("elementwise_max", "maximum"),
            ("elementwise_min", "minimum"),
            ("elementwise_mod", "remainder"),
            ("elementwise_mul", "multiply"),
            ("elementwise_pow", "elementwise_pow"),
            ("elementwise_sub", "subtract"),
            ("equal", "equal"),
            ("equal_all", "equal_all"),
            ("greater_equal", "greater_equal"),
            ("greater_than", "greater_than"),
            ("less_equal", "less_equal"),
            ("less_than", "less_than"),
            ("not_equal", "not_equal"),
            ("logical_and", "logical_and"),
            ("logical_or", "logical_or"),
            ("logical_xor", "logical_xor"),
            ("bitwise_and", "bitwise_and"),
            ("bitwise_or", "bitwise_or"),
            ("bitwise_xor", "bitwise_xor"),
            ("bmm", "bmm"),
            ("cross", "cross"),
            ("dot", "dot"),
            ("kron", "kron"),
            ("dist", "dist"),
        )
    },
    "addmm": ("addmm", "Input X Y", "Out", {"Alpha": "alpha", "Beta": "beta"}),
    "affine_channel": ("affine_channel", "X Scale Bias", "Out", {}),
    "affine_grid": ("affine_grid", "Theta OutputShape|@output_shape", "Output", {}),
    "anchor_generator": ("anchor_generator", "Input", "Anchors Variances", {}),
    "arg_max": ("argmax", "X @axis", "Out", {}),
    "arg_min": ("argmin", "X @axis", "Out", {}),
    "argsort": ("argsort", "X", "Out Indices", {}),
    "assign": ("assign", "X", "Out", {}),
    "atan2": ("atan2", "X1 X2", "Out", {}),
    "batch_norm": ("batch_norm", "X Mean Variance Scale Bias", "Y", {"data_layout": "data_format"}),
    "sync_batch_norm": ("batch_norm", "X Mean Variance Scale Bias", "Y", {"data_layout": "data_format"}),
    "bicubic_interp": ("bicubic_interp", *_RESIZE),
    "bicubic_interp_v2": ("bicubic_interp", *_RESIZE),
    "bilinear_interp": ("bilinear_interp", *_RESIZE),
    "bilinear_interp_v2": ("bilinear_interp", *_RESIZE),
    "linear_interp": ("linear_interp", *_RESIZE),
    "linear_interp_v2": ("linear_interp", *_RESIZE),
    "nearest_interp": ("nearest_interp", *_RESIZE),
    "nearest_interp_v2": ("nearest_interp", *_RESIZE),
    "trilinear_interp": ("trilinear_interp", *_RESIZE),
    "trilinear_interp_v2": ("trilinear_interp", *_RESIZE),
    "bincount": ("bincount", "X Weights @minlength", "Out", {}),
    "box_clip": ("box_clip", "Input ImInfo", "Output", {}),
    "box_coder": ("box_coder", "PriorBox PriorBoxVar TargetBox", "OutputBox", {}),
    "cast": ("cast", "X", "Out", {"out_dtype": "dtype"}),
    "clip": ("clip", "X Min|%min Max|%max", "Out", {}),
    "collect_fpn_proposals": (
        "collect_fpn_proposals",
        "MultiLevelRois* MultiLevelScores* MultiLevelRoIsNum*",
        "FpnRois RoisNum",
        {"post_nms_topN": "post_nms_topn"},
    ),
    "concat": ("concat", "X* AxisTensor|@axis", "Out", {}),
    "conv2d": ("conv2d", "Input Filter Bias", "Output", _FILTERS),
    "conv2d_transpose": ("conv2d_transpose", "Input Filter @output_size", "Output", _FILTERS),
    "conv3d": ("conv3d", "Input Filter", "Output", _FILTERS),
    "conv3d_transpose": ("conv3d_transpose", "Input Filter", "Output", _FILTERS),
    "crop_tensor": ("crop", "X ShapeTensor*|Shape OffsetsTensor*|Offsets", "Out", {}),
    "cummax": ("cummax", "x", "out indices", {}),
    "cummin": ("cummin", "x", "out indices", {}),
    "cumprod": ("cumprod", "X", "Out", {}),
    "cumsum": ("cumsum", "X @axis", "Out", {}),
    "deformable_conv": ("deformable_conv", "Input Offset Filter Mask", "Output", {}),
    "deformable_conv_v1": ("deformable_conv", "Input Offset Filter", "Output", {}),
    "depthwise_conv2d": ("depthwise_conv2d", "Input Filter Bias", "Output", _FILTERS),
    "depthwise_conv2d_transpose": ("depthwise_conv2d_transpose", "Input Filter @output_size", "Output", _FILTERS),
    "diag_embed": ("diag_embed", "Input", "Out", {}),
    "diag_v2": ("diag", "X", "Out", {}),
    "diagonal": ("diagonal", "Input", "Out", {}),
    "distribute_fpn_proposals": (
        "distribute_fpn_proposals",
        "FpnRois RoisNum",
        "MultiFpnRois* MultiLevelRoIsNum* RestoreIndex",
        {},
    ),
    "dropout": ("dropout", "X Seed", "Out Mask", {"dropout_implementation": "mode"}),
    "einsum": ("einsum", "Operands*", "Out", {}),
    "expand": ("tile", "X expand_times_tensor*|ExpandTimes|@expand_times", "Out", {}),
    "expand_as_v2": ("expand_as", "X Y", "Out", {}),
    "expand_v2": ("expand", "X Shape|expand_shapes_tensor*|@shape", "Out", {}),
    "eye": ("eye", "@num_rows @num_columns", "Out", {}),
    "fc": ("fc", "Input W Bias", "Out", {}),
    "fill_any_like": ("fill_any_like", "X", "Out", {}),
    "fill_constant_batch_size_like": ("full_batch_size_like", "Input", "Out", {}),
    "fill_zeros_like": ("zeros_like", "X", "Out", {}),
    "flatten2": ("flatten2", "X", "Out", {}),
    "flatten_contiguous_range": ("flatten", "X", "Out", {}),
    "flip": ("flip", "X", "Out", {}),
    "frobenius_norm": ("frobenius_norm", "X @dim", "Out", {}),
    "gather": ("gather", "X Index Axis|@axis", "Out", {}),
    "gather_nd": ("gather_nd", "X Index", "Out", {}),
    "generate_proposals_v2": (
        "generate_proposals",
        "Scores BboxDeltas ImShape Anchors Variances",
        "RpnRois RpnRoiProbs RpnRoisNum",
        {"pre_nms_topN": "pre_nms_top_n", "post_nms_topN": "post_nms_top_n"},
    ),
    "grid_sampler": ("grid_sample", "X Grid", "Output", {}),
    "group_norm": ("group_norm", "X Scale Bias", "Y", {"data_layout": "data_format"}),
    "hard_sigmoid": ("hardsigmoid", "X", "Out", {}),
    "hard_swish": ("hardswish", "X", "Out", {}),
    "increment": ("increment", "X", "Out", {"step": "value"}),
    "index_add": ("index_add", "X Index AddValue", "Out", {}),
    "index_put": ("index_put", "x indices* value", "out", {}),
    "index_sample": ("index_sample", "X Index", "Out", {}),
    "index_select": ("index_select", "X Index", "Out", {"dim": "axis"}),
    "instance_norm": ("instance_norm", "X Scale Bias", "Y", {}),
    "iou_similarity": ("iou_similarity", "X Y", "Out", {}),
    "layer_norm": ("layer_norm", "X Scale Bias", "Y", {}),
    "leaky_relu": ("leaky_relu", "X", "Out", {"alpha": "negative_slope"}),
    "linspace": ("linspace", "Start Stop Num", "Out", {}),
    "lod_array_length": ("array_length", "X", "Out", {}),
    "logsumexp": ("logsumexp", "X", "Out", {}),
    "lookup_table_v2": ("embedding", "Ids W", "Out", {}),
    "lrn": ("lrn", "X", "Out MidOut", {}),
    "masked_select": ("masked_select", "X Mask", "Y", {}),
    "matmul": ("matmul", "X Y", "Out", {"transpose_X": "transpose_x", "transpose_Y": "transpose_y"}),
    "matmul_v2": ("matmul", "X Y", "Out", {"trans_x": "transpose_x", "trans_y": "transpose_y"}),
    "matrix_nms": ("matrix_nms", "BBoxes Scores", "Out Index RoisNum", {}),
    "max_pool2d_with_index": ("max_pool2d_with_index", "X", "Out Mask", {"ksize": "kernel_size"}),
    "max_pool3d_with_index": ("max_pool3d_with_index", "X", "Out Mask", {"ksize": "kernel_size"}),
    "mean": ("mean_all", "X", "Out", {}),
    "meshgrid": ("meshgrid", "X*", "Out*", {}),
    "mul": ("matmul", "X Y", "Out", {}),
    "multiclass_nms": ("multiclass_nms3", "BBoxes Scores", "Out", {}),
    "multiclass_nms2": ("multiclass_nms3", "BBoxes Scores", "Out Index", {}),
    "multiclass_nms3": ("multiclass_nms3", "BBoxes Scores RoisNum", "Out Index NmsRoisNum", {}),
    "multiplex": ("multiplex", "X* Ids", "Out", {}),
    "mv": ("mv", "X Vec", "Out", {}),
    "nms": ("nms", "Boxes", "KeepBoxesIdxs", {"iou_threshold": "threshold"}),
    "norm": ("norm", "X", "Out Norm", {}),
    "one_hot_v2": ("one_hot", "X depth_tensor|@depth", "Out", {}),
    "p_norm": ("p_norm", "X", "Out", {}),
    "pad": ("pad", "X %pad_value", "Out", {}),
    "pad2d": ("pad2d", "X Paddings", "Out", {}),
    "pad3d": ("pad3d", "X Paddings|@paddings", "Out", {"value": "pad_value"}),
    "pixel_shuffle": ("pixel_shuffle", "X", "Out", {}),
    "pool2d": ("pool2d", "X @ksize", "Out", {"data_layout": "data_format"}),
    "pool3d": ("pool3d", "X", "Out", {"ksize": "kernel_size", "data_layout": "data_format"}),
    "pow": ("pow", "X FactorTensor|%factor", "Out", {}),
    "prelu": ("prelu", "X Alpha", "Out", {}),
    "prior_box": ("prior_box", "Input Image", "Boxes Variances", {}),
    "put_along_axis": ("put_along_axis", "Input Index Value", "Result", _PUT),
    "range": ("arange", "Start End Step", "Out", {}),
    "read_from_array": ("array_read", "X I", "Out", {}),
    "reduce_all": ("all", "X AxisTensor|AxisTensorList*", "Out", _REDUCED),
    "reduce_amax": ("amax", "X @dim", "Out", {"keep_dim": "keepdim"}),
    "reduce_amin": ("amin", "X @dim", "Out", {"keep_dim": "keepdim"}),
    "reduce_any": ("any", "X AxisTensor|AxisTensorList*", "Out", _REDUCED),
    "reduce_max": ("max", "X AxisTensor|AxisTensorList*|@dim", "Out", {"keep_dim": "keepdim"}),
    "reduce_mean": ("mean", "X AxisTensor|AxisTensorList*|@dim", "Out", {"keep_dim": "keepdim"}),
    "reduce_min": ("min", "X AxisTensor|AxisTensorList*|@dim", "Out", {"keep_dim": "keepdim"}),
    "reduce_prod": ("prod", "X AxisTensor|AxisTensorList*|@dim", "Out", {"keep_dim": "keepdim"}),
    "reduce_sum": ("sum", "X AxisTensor|AxisTensorList*|@dim", "Out", {"keep_dim": "keepdim", "out_dtype": "dtype"}),
    "repeat_interleave": ("repeat_interleave", "X RepeatsTensor", "Out", {"dim": "axis", "Repeats": "repeats"}),
    "reshape2": ("reshape", "X ShapeTensor*|Shape|@shape", "Out", {}),
    "rnn": ("rnn", "Input PreState* WeightList* SequenceLength", "Out - State*", {}),
    "roi_align": ("roi_align", "X ROIs RoisNum", "Out", {}),
    "roi_pool": ("roi_pool", "X ROIs RoisNum", "Out", {}),
    "roll": ("roll", "X ShiftsTensor|@shifts", "Out", {}),
    "scale": ("scale", "X ScaleTensor|%scale", "Out", {}),
    "scatter": ("scatter", "X Ids Updates", "Out", {}),
    "scatter_nd_add": ("scatter_nd_add", "X Index Updates", "Out", {}),
    "searchsorted": ("searchsorted", "SortedSequence Values", "Out", {}),
    "select_input": ("select_input", "X* Mask", "Out", {}),
    "sequence_mask": ("sequence_mask", "X MaxLenTensor", "Y", {"maxlen": "max_len"}),
    "shape": ("shape", "Input", "Out", {}),
    "shuffle_channel": ("channel_shuffle", "X", "Out", {"group": "groups"}),
    "size": ("numel", "Input", "Out", {}),
    "slice": ("slice", f"Input {_STARTS}", "Out", {}),
    "softshrink": ("softshrink", "X", "Out", {"lambda": "threshold"}),
    "spectral_norm": ("spectral_norm", "Weight U V", "Out", {}),
    "squeeze2": ("squeeze", "X AxesTensor|AxesTensorList*|@axes", "Out", {}),
    "stack": ("stack", "X*", "Y", {}),
    "strided_slice": ("strided_slice", f"Input {_STARTS} StridesTensor|StridesTensorList*|@strides", "Out", {}),
    "sum": ("add_n", "X*", "Out", {}),
    "take_along_axis": ("take_along_axis", "Input Index", "Result", {"Axis": "axis"}),
    "tensor_array_to_tensor": ("array_to_tensor", "X", "Out OutIndex", {}),
    "tile": ("tile", "X RepeatTimes|repeat_times_tensor*|@repeat_times", "Out", {}),
    "top_k": ("topk", "X K|@k", "Out Indices", {}),
    "top_k_v2": ("topk", "X K|@k", "Out Indices", {}),
    "transpose2": ("transpose", "X", "Out", {"axis": "perm"}),
    "unbind": ("unbind", "X", "Out*", {}),
    "unfold": ("unfold", "X", "Y", {}),
    "unique": ("unique", "X", "Out Indices Index Counts", {}),
    "unique_consecutive": ("unique_consecutive", "X", "Out Index Counts", {}),
    "unpool": ("unpool", "X Indices @output_size", "Out", {"paddings": "padding"}),
    "unsqueeze2": ("unsqueeze", "X AxesTensor|AxesTensorList*|@axes", "Out", {}),
    "unstack": ("unstack", "X", "Y*", {}),
    "where": ("where", "Condition X Y", "Out", {}),
    "where_index": ("nonzero", "Condition", "Out", {}),
    "yolo_box": ("yolo_box", "X ImgSize", "Boxes Scores", {}),
}
# Slots without a meaning at inference, and attributes that a slot or an operand has taken the place of.
_SILENT_SLOTS = frozenset({"MomentumTensor", "XShape"})
_TYPE_CODES = frozenset({"dtype", "out_dtype", "in_dtype"})
_SILENT = frozenset({"in_dtype", "is_mkldnn", "with_quant_attr", "use_quantizer", "data_type", "is_scalar_condition"})
_VALUES = ("values", "fp32_values", "fp64_values", "int32_values", "int64_values", "bool_values", "int8_values")


@dataclass(frozen=True)
class _Op:
    kind: str
    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, Any]


@dataclass
class _BlockDesc:
    variables: dict[str, int] = field(default_factory=dict)  # name -> kind
    ops: list[_Op] = field(default_factory=list)


def read_legacy_graph(path: str | os.PathLike[str]) -> Graph:
    """Read a `.pdmodel` with all its blocks.

    Raises `Paddle2TorchError` where the file cannot be opened, `FileFormatError` where it is not such a program or
    corrupt,
    or has an operation in a way that is not known.
    """
    return _Reader(path).read()


class _Reader:
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.where = f"{path}"
        self.blocks: list[_BlockDesc] = []
        self.types: dict[str, TensorType] = {}  # by variable
        self.made: dict[str, TensorType] = {}  # by value
        self.parameters: list[str] = []
        self.counts: dict[str, int] = {}
        self.feeds: dict[int, str] = {}
        self.fetches: dict[int, str] = {}
        self.unknown: dict[str, int] = {}
        self.operations = 0
        self.members = 0
        self.entered = 0  # operations of inner blocks, as often as one is entered

    def fail(self, message: str) -> NoReturn:
        raise FileFormatError(f"{self.where}: {message}")

    def read(self) -> Graph:
        self._load()
        env = {name: name for name in self.parameters}
        for name in self.parameters:
            self.counts[name] = 1
            self.made[name] = self.types[name]
        nodes = self._translate(self.blocks[0], env, 1, True)
        self.where = f"{self.path}"
        if self.unknown:
            listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(self.unknown.items()))
            self.fail(f"operations in a way that is not known: {listed}")
        feeds = [name for _, name in sorted(self.feeds.items())]
        return Graph(
            source="legacy export",
            block=Block((), tuple(nodes), ()),
            types=self.made,
            parameters=tuple(sorted(self.parameters)),
            feeds=tuple((name, name) for name in feeds),
            fetches=tuple(name for _, name in sorted(self.fetches.items())),
        )

    # The file.

    def _load(self) -> None:
        data = map_file(self.path)
        if len(data) > _SIZE_AT_MOST:
            self.fail(f"{len(data):,} bytes are too many for a program; is it a .pdiparams?")
        with protobuf.counted(_FIELDS_AT_MOST):
            for number, value in protobuf.fields(data, self.where):
                if number == 1:
                    if len(self.blocks) == _BLOCKS_AT_MOST:
                        self.fail(f"has more than {_BLOCKS_AT_MOST:,} blocks, as no program has")
                    self.blocks.append(self._load_block(protobuf.message(value, self.where), len(self.blocks)))
        if not self.blocks:
            self.fail("holds no program; it is not a .pdmodel or is corrupt")

    def _load_block(self, data: memoryview, index: int) -> _BlockDesc:
        block = _BlockDesc()
        for number, value in protobuf.fields(data, self.where):
            if number == 3:
                self._load_variable(protobuf.message(value, self.where), block, index)
            elif number == 4:
                self.operations += 1
                if self.operations > OPERATIONS_AT_MOST:
                    self.fail(f"more than {OPERATIONS_AT_MOST:,} operations are too many for a program")
                block.ops.append(self._load_op(protobuf.message(value, self.where), len(block.ops)))
        return block

    def _load_variable(self, data: memoryview, block: _BlockDesc, index: int) -> None:  # noqa: C901, a case for each kind of variable
        name: str | None = None
        kind: memoryview | None = None
        persistable = False
        for number, value in protobuf.fields(data, self.where):
            if number == 1:
                name = protobuf.name(value, self.where)
            elif number == 2:
                kind = protobuf.message(value, self.where)
            elif number == 3:
                persistable = bool(protobuf.integer(value, self.where))
        if not name or kind is None:
            self.fail("a variable has no name or no type; the file is corrupt")
        if name in block.variables:
            self.fail(f"variable {name!r} is declared twice")
        code, tensor = -1, None
        for number, value in protobuf.fields(kind, self.where):
            if number == 1:
                code = protobuf.integer(value, self.where)
            elif number == 3:
                for inner, item in protobuf.fields(protobuf.message(value, self.where), self.where):
                    if inner == 1:
                        tensor = protobuf.message(item, self.where)
        block.variables[name] = code
        if code != _DENSE_TENSOR:
            return
        if tensor is None:
            self.fail(f"variable {name!r} is a tensor without a type; the file is corrupt")
        dtype, shape = read_tensor_desc(tensor, f"{self.where}: variable {name!r}")
        if len(shape) > DIMENSIONS_AT_MOST or not all(size <= SIZE_AT_MOST for size in shape):
            self.fail(f"variable {name!r} has a shape that is out of bounds; the file is corrupt")
        # Free sizes are -1; Paddle itself writes products of them (-4) for results that nobody reads.
        self.types[name] = TensorType(tuple(max(size, -1) for size in shape), dtype)
        if persistable and index == 0:
            self.parameters.append(name)

    def _load_op(self, data: memoryview, position: int) -> _Op:
        where = f"{self.path}: operation {position}"
        kind = ""
        inputs: dict[str, tuple[str, ...]] = {}
        outputs: dict[str, tuple[str, ...]] = {}
        attributes: dict[str, Any] = {}
        for number, value in protobuf.fields(data, where):
            if number == 3:
                kind = protobuf.name(value, where)
            elif number in (1, 2):
                slot, names = read_arguments(protobuf.message(value, where), where)
                self.members += len(names)
                (inputs if number == 1 else outputs)[slot] = names
            elif number == 4:
                attributes.update(read_attribute(protobuf.message(value, where), where, blocks=True))
        if not kind:
            raise FileFormatError(f"{where}: has no type; the file is corrupt")
        if self.members > MEMBERS_AT_MOST:
            raise FileFormatError(f"{where}: reads far more values than any program; the file is corrupt")
        return _Op(kind, inputs, outputs, attributes)

    # Values.

    def define(self, variable: str, env: dict[str, str]) -> str:
        """A new value for a variable."""
        count = self.counts.get(variable, 0)
        self.counts[variable] = count + 1
        value = variable if count == 0 else f"{variable}@{count}"
        while count and value in self.counts:
            value += "@"
        if count:
            self.counts[value] = 1
        env[variable] = value
        if variable in self.types:
            self.made[value] = self.types[variable]
        return value

    def constant(self, value: Any, nodes: list[Node], *, listed: bool) -> str:
        """An attribute as an operation that makes a constant; its value."""
        name = self.define("constant", {})
        if listed:
            items = value if isinstance(value, tuple) else (value,)
            if any(type(item) is not int for item in items):
                self.fail("something else stands where integers belong; the file is corrupt")
            nodes.append(Node("full_int_array", (), (name,), {"value": items, "dtype": "int64"}))
            self.made[name] = TensorType((len(items),), "int64")
        else:
            if isinstance(value, bool) or not isinstance(value, int | float):
                self.fail("something else stands where a number belongs; the file is corrupt")
            dtype = "int64" if isinstance(value, int) else "float64"
            nodes.append(Node("full", (), (name,), {"shape": (1,), "value": value, "dtype": dtype}))
            self.made[name] = TensorType((1,), dtype)
        return name

    # Blocks.

    def _translate(self, block: _BlockDesc, env: dict[str, str], depth: int, outermost: bool = False) -> list[Node]:
        if depth > BLOCKS_DEEP_AT_MOST:
            self.fail(f"blocks are nested more than {BLOCKS_DEEP_AT_MOST} deep; the file is corrupt")
        nodes: list[Node] = []
        for index, op in enumerate(block.ops):
            self.where = f"{self.path}: operation {index} ({op.kind})"
            self._operation(op, index if outermost else -1, env, nodes, block, depth)
        return nodes

    def _operation(
        self, op: _Op, position: int, env: dict[str, str], nodes: list[Node], block: _BlockDesc, depth: int
    ) -> None:
        if op.kind == "feed":
            self._end(self.feeds, op, self._only(op.outputs), env, True)
        elif op.kind == "fetch":
            self._end(self.fetches, op, self._only(op.inputs), env, False)
        elif op.kind == "while":
            self._while(op, position, env, nodes, depth)
        elif op.kind == "conditional_block":
            self._conditional(op, position, env, nodes, depth)
        elif op.kind in ("write_to_array", "create_array"):
            self._array(op, position, env, nodes)
        elif op.kind == "fill_constant":
            self._fill_constant(op, position, env, nodes)
        elif op.kind == "assign_value":
            self._assign_value(op, position, env, nodes)
        elif op.kind == "set_value":
            self._set_value(op, position, env, nodes)
        elif op.kind == "split":
            self._split(op, position, env, nodes)
        else:
            self._plain(op, position, env, nodes)

    def _only(self, slots: Mapping[str, tuple[str, ...]]) -> str:
        names = [name for items in slots.values() for name in items]
        if len(names) != 1:
            self.fail("does not have one value of its own; the file is corrupt")
        return names[0]

    def _end(self, ends: dict[int, str], op: _Op, name: str, env: dict[str, str], feed: bool) -> None:
        column = op.attributes.get("col", 0)
        if type(column) is not int or column in ends:
            self.fail("is not an input or output of its own; the file is corrupt")
        if feed:
            if name not in self.types:
                self.fail(f"feeds {name!r}, which is not a tensor; the file is corrupt")
            ends[column] = self.define(name, env)
        else:
            ends[column] = self.value(name, env)

    def value(self, name: str, env: dict[str, str]) -> str:
        if name not in env:
            self.fail(f"reads {name!r}, which nothing has written; the file is corrupt")
        return env[name]

    def _written(self, block: _BlockDesc, seen: frozenset[int]) -> list[str]:
        """Variables of blocks around this one that it assigns, also in the blocks inside it."""
        names: dict[str, None] = {}
        for op in block.ops:
            for items in op.outputs.values():
                names.update((name, None) for name in items if name and name not in block.variables)
            inner = op.attributes.get("sub_block")
            if isinstance(inner, BlockReference) and inner.index not in seen and 0 < inner.index < len(self.blocks):
                deeper = self._written(self.blocks[inner.index], seen | {inner.index})
                names.update((name, None) for name in deeper if name not in block.variables)
        return list(names)

    def _inner(self, op: _Op) -> _BlockDesc:
        reference = op.attributes.get("sub_block")
        if not isinstance(reference, BlockReference) or not 0 < reference.index < len(self.blocks):
            self.fail("has no block; the file is corrupt")
        inner = self.blocks[reference.index]
        self.entered += 1 + len(inner.ops)
        if self.entered > OPERATIONS_AT_MOST:
            self.fail("its blocks are entered more often than in any program; the file is corrupt")
        return inner

    def _while(self, op: _Op, position: int, env: dict[str, str], nodes: list[Node], depth: int) -> None:
        inner = self._inner(op)
        (condition,) = op.inputs.get("Condition", ("",))[:1] or ("",)
        before = self.value(condition, env)
        written = [name for name in self._written(inner, frozenset()) if name != condition]
        for name in written:
            if name not in env and any(block.variables.get(name) == _ARRAY for block in self.blocks):
                nodes.append(Node("create_array", (), (self.define(name, env),)))
        carried = [name for name in written if name in env]
        where = self.where
        inside = dict(env)
        initial = [env[name] for name in carried]
        arguments = tuple(self.define(name, inside) for name in carried)
        body = self._translate(inner, inside, depth + 1)
        self.where = where
        results = tuple(self.value(name, inside) for name in (condition, *carried))
        outputs = tuple(self.define(name, env) for name in carried)
        nodes.append(
            Node(
                "while",
                (before, *initial),
                outputs,
                position=position,
                blocks=(Block(arguments, tuple(body), results),),
            )
        )
        # The condition is false behind a loop.
        env[condition] = before

    def _conditional(self, op: _Op, position: int, env: dict[str, str], nodes: list[Node], depth: int) -> None:
        inner = self._inner(op)
        (condition,) = op.inputs.get("Cond", ("",))[:1] or ("",)
        written = self._written(inner, frozenset())
        for name in op.outputs.get("Out", ()):
            if name and name not in written:
                written.append(name)
        where = self.where
        inside = dict(env)
        body = self._translate(inner, inside, depth + 1)
        self.where = where
        made = [name for name in written if name in inside]
        results = tuple(inside[name] for name in made)
        otherwise = tuple(env.get(name, "") for name in made)
        cond = self.value(condition, env)
        outputs = tuple(self.define(name, env) for name in made)
        blocks = (Block((), tuple(body), results), Block((), (), otherwise))
        nodes.append(Node("if", (cond,), outputs, position=position, blocks=blocks))

    def _array(self, op: _Op, position: int, env: dict[str, str], nodes: list[Node]) -> None:
        name = self._only(op.outputs)
        if name not in env:
            nodes.append(Node("create_array", (), (self.define(name, env),)))
        if op.kind == "create_array":
            return
        x = self.value(self._only({"X": op.inputs.get("X", ())}), env)
        i = self.value(self._only({"I": op.inputs.get("I", ())}), env)
        array = self.value(name, env)
        nodes.append(Node("array_write", (array, x, i), (self.define(name, env),), position=position))

    # Operations.

    def operand(self, op: _Op, choices: str, env: dict[str, str], nodes: list[Node], used: set[str]) -> Operand:
        for choice in choices.split("|"):
            if choice[0] in "@%":
                if choice[1:] in op.attributes:
                    used.add(choice[1:])
                    return self.constant(op.attributes[choice[1:]], nodes, listed=choice[0] == "@")
                continue
            names = op.inputs.get(choice.rstrip("*"), ())
            used.add(choice.rstrip("*"))
            if names and names[0]:
                # What the slot says counts: the attribute of the same meaning is a left-over.
                used.update(other[1:] for other in choices.split("|") if other[0] in "@%")
                if choice.endswith("*"):
                    return tuple(self.value(name, env) for name in names)
                if len(names) != 1:
                    self.fail(f"has {len(names)} values in {choice} where one belongs; the file is corrupt")
                return self.value(names[0], env)
        return None

    def typed(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """Codes of types as their names; -1 is none."""
        made = {}
        for name, value in attributes.items():
            if name in _TYPE_CODES and type(value) is int:
                if value == -1:
                    continue
                if value not in DTYPES:
                    self.fail(f"has a type of unknown code {value}; the file is corrupt or too new")
                value = DTYPES[value]
            made[name] = value
        return made

    def _plain(self, op: _Op, position: int, env: dict[str, str], nodes: list[Node]) -> None:
        slots = _SLOTS.get(op.kind) or self._simple(op)
        kind, operands, results, renamed = slots
        used: set[str] = set()
        inputs = [self.operand(op, choices, env, nodes, used) for choices in operands.split()]
        for slot, names in op.inputs.items():
            if any(names) and slot not in used and slot not in _SILENT_SLOTS:
                key = f"{op.kind} with the input {slot}"
                self.unknown[key] = self.unknown.get(key, 0) + 1
        attributes = {
            renamed.get(name, name): value
            for name, value in op.attributes.items()
            if name not in used and name not in _SILENT
        }
        attributes = self.typed(attributes)
        if kind in ("shape", "arange"):
            attributes.pop("dtype", None)
        text = attributes.pop("str_value", None)
        if text:
            attributes["value"] = self.number(text)
        while inputs and inputs[-1] is None:
            inputs.pop()
        if kind == "repeat_interleave" and len(inputs) > 1:
            kind = "repeat_interleave_with_tensor_index"
            attributes.pop("repeats", None)
        outputs: list[str] = []
        lists: list[Node] = []
        for slot in results.split():
            names = op.outputs.get(slot.rstrip("*"), ())
            if slot.endswith("*"):
                whole = self.define("list", {})
                outputs.append(whole)
                lists.append(Node("builtin.split", (whole,), tuple(self.define(name, env) for name in names)))
            else:
                outputs.append(self.define(names[0], env) if names and names[0] else "")
        if kind == "arange" and outputs[0] in self.made:
            attributes["dtype"] = self.made[outputs[0]].dtype
        nodes.append(Node(kind, tuple(inputs), tuple(outputs), attributes, position=position))
        nodes += lists

    def _simple(self, op: _Op) -> _Slots:
        """A kind that is not on the list: good where it has one input and one output, so that no order is guessed."""
        inputs = [slot for slot, names in op.inputs.items() if any(names)]
        outputs = [slot for slot, names in op.outputs.items() if any(names)]
        if len(inputs) <= 1 and len(outputs) == 1 and all(len(op.inputs[slot]) == 1 for slot in inputs):
            return op.kind, "".join(inputs), outputs[0], {}
        definition = TABLE.get(op.kind)
        if definition is not None and set(inputs) <= set(definition.operands) and len(outputs) == 1:
            # A kind of later years, whose slots have the operands' own names.
            ordered = [f"{slot}*" if len(op.inputs.get(slot, ())) > 1 else slot for slot in definition.operands]
            return op.kind, " ".join(ordered), outputs[0], {}
        self.unknown[op.kind] = self.unknown.get(op.kind, 0) + 1
        every = " ".join(f"{slot}*" if len(op.inputs[slot]) > 1 else slot for slot in inputs)
        return op.kind, every, " ".join(slot for slot in outputs if len(op.outputs[slot]) == 1), {}

    def _fill_constant(self, op: _Op, position: int, env: dict[str, str], nodes: list[Node]) -> None:
        attributes = self.typed(dict(op.attributes))
        text = attributes.get("str_value", "")
        value = attributes.get("value", 0.0)
        if text:
            value = self.number(text)
        dtype = attributes.get("dtype", "float32")
        given = self.operand(op, "ValueTensor", env, nodes, set())
        shape = self.operand(op, "ShapeTensor|ShapeTensorList*", env, nodes, set())
        output = self.define(self._only(op.outputs), env)
        if given is None and shape is None:
            made = {"shape": attributes.get("shape", ()), "value": value, "dtype": dtype}
            nodes.append(Node("full", (), (output,), made, position=position))
            return
        if given is None:
            given = self.define("constant", {})
            nodes.append(Node("full", (), (given,), {"shape": (), "value": value, "dtype": dtype}))
            self.made[given] = TensorType((), dtype)
        if shape is None:
            shape = self.constant(attributes.get("shape", ()), nodes, listed=True)
        nodes.append(Node("full_with_tensor", (given, shape), (output,), {"dtype": dtype}, position=position))

    def number(self, text: Any) -> int | float:
        """A constant that is written as a text."""
        try:
            return int(text) if text.lstrip("-").isdigit() and len(text) < 20 else float(text)
        except (ValueError, AttributeError):
            self.fail(f"the constant {text!r:.80} is not a number; the file is corrupt")

    def _values(self, op: _Op) -> tuple[Any, ...]:
        found = [op.attributes[name] for name in _VALUES if op.attributes.get(name)]
        return tuple(found[0]) if found and isinstance(found[0], tuple) else ()

    def _assign_value(self, op: _Op, position: int, env: dict[str, str], nodes: list[Node]) -> None:
        attributes = self.typed(dict(op.attributes))
        made = {
            "shape": attributes.get("shape", ()),
            "dtype": attributes.get("dtype", "float32"),
            "values": self._values(op),
        }
        nodes.append(Node("assign_value", (), (self.define(self._only(op.outputs), env),), made, position=position))

    def _set_value(self, op: _Op, position: int, env: dict[str, str], nodes: list[Node]) -> None:
        used: set[str] = set()
        x = self.operand(op, "Input", env, nodes, used)
        value = self.operand(op, "ValueTensor", env, nodes, used)
        places = [
            self.operand(op, choices, env, nodes, used)
            for choices in ("StartsTensorList*|@starts", "EndsTensorList*|@ends", "StepsTensorList*|@steps")
        ]
        attributes: dict[str, Any] = {
            name: op.attributes.get(name, ()) for name in ("axes", "decrease_axes", "none_axes")
        }
        output = self.define(self._only({"Out": op.outputs.get("Out", ())}), env)
        if value is None:
            attributes |= {"shape": op.attributes.get("shape", ()), "values": self._values(op)}
            nodes.append(Node("set_value", (x, *places), (output,), attributes, position=position))
        else:
            nodes.append(Node("set_value_with_tensor", (x, value, *places), (output,), attributes, position=position))

    def _split(self, op: _Op, position: int, env: dict[str, str], nodes: list[Node]) -> None:
        used: set[str] = set()
        x = self.operand(op, "X", env, nodes, used)
        axis = self.operand(op, "AxisTensor|@axis", env, nodes, used)
        number = op.attributes.get("num", 0)
        names = op.outputs.get("Out", ())
        whole = self.define("list", {})
        if number and not op.attributes.get("sections") and not any(op.inputs.get("SectionsTensorList", ())):
            nodes.append(Node("split_with_num", (x, axis), (whole,), {"num": number}, position=position))
        else:
            sections = self.operand(op, "SectionsTensorList*|@sections", env, nodes, used)
            nodes.append(Node("split", (x, sections, axis), (whole,), {}, position=position))
        outputs = tuple(self.define(name, env) for name in names)
        nodes.append(Node("builtin.split", (whole,), outputs, position=position))
