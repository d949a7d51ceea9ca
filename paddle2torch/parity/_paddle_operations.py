"""Paddle's operations that a program from outside may run: those that compute outputs from inputs, and nothing else.

What is not here is not executed: operations that read or write files, run Python or a compiled library, talk to
devices or other processes, draw random numbers, print, or train. Names of both formats, without the underscore of what
works in place.
"""

from __future__ import annotations

# Of a PIR program: which dialects there are, and what `builtin` and `cf` (control flow) hold.
DIALECTS = frozenset({"builtin", "cf", "pd_op"})

_NAMES = """
    feed fetch fetch_v2 data parameter constant combine split yield shadow_output
    slice while if conditional_block conditional_block_infer select_input select_output tuple_push tuple_pop
    stack_create has_elements

    as_strided assign assign_out assign_value arange range range_v2 linspace logspace eye full full_like full_int_array
    empty full_with_tensor full_batch_size_like fill fill_any fill_any_like fill_constant fill_constant_batch_size_like
    fill_zeros_like fill_zeros_like2 zeros_like ones_like one_hot one_hot_v2 meshgrid tril triu tril_triu tril_indices
    triu_indices increment share_data memcpy memcpy_h2d memcpy_d2h shape shape64 size numel is_empty cast
    create_array create_array_like array_length array_read array_write array_to_tensor array_pop slice_array
    slice_array_dense add_n_array lod_array_length read_from_array write_to_array tensor_array_to_tensor

    abs acos acosh add add_n addmm angle asin asinh atan atan2 atanh baddbmm bmm ceil clip complex conj copysign cos
    cosh cross cummax cummin cumprod cumsum digamma divide dot elementwise_add elementwise_div elementwise_floordiv
    elementwise_fmax elementwise_fmin elementwise_heaviside elementwise_max elementwise_min elementwise_mod
    elementwise_mul elementwise_pow elementwise_sub erf erfinv exp expm1 floor floor_divide fmax fmin gammaln
    grad_add heaviside i0 i0e i1 i1e imag isclose isfinite isfinite_v2 isinf isinf_v2 isnan isnan_v2 allclose kron lerp
    lgamma log log10 log1p log2 logcumsumexp logit logsumexp maximum minimum matmul matmul_v2 matrix_power minus mod mul
    multi_dot multiply mv negative nextafter polygamma pow pow2_decay real reciprocal remainder rint round rsqrt scale
    sign sin sinh sqrt square stanh subtract sum tan trunc einsum as_complex as_real fft_c2c fft_c2r fft_r2c
    bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor logical_and logical_not
    logical_or logical_xor equal equal_all greater_equal greater_than less_equal less_than not_equal

    all amax amin any arg_max arg_min argmax argmin bincount frobenius_norm histogram kthvalue max max_with_index mean
    mean_all median min min_with_index mode nanmedian nansum norm p_norm l1_norm squared_l2_norm clip_by_norm prod
    renorm reduce reduce_all reduce_amax reduce_amin reduce_any reduce_as reduce_max reduce_mean reduce_min reduce_prod
    reduce_sum trace dist
    argsort bucketize searchsorted topk top_k top_k_v2 unique unique_consecutive nonzero where where_index

    celu elu gelu hard_shrink hard_sigmoid hard_swish hard_tanh hardshrink hardsigmoid hardswish hardtanh brelu
    leaky_relu log_softmax logsigmoid maxout mish prelu relu relu6 selu sigmoid silu soft_relu softmax softplus
    softshrink softsign swiglu swish tanh tanh_shrink thresholded_relu
    batch_norm data_norm group_norm instance_norm layer_norm lrn rms_norm spectral_norm sync_batch_norm affine_channel
    dropout dropout_nd

    bilinear conv2d conv2d_transpose conv2d_transpose_bias conv3d conv3d_transpose deformable_conv deformable_conv_v1
    depthwise_conv2d depthwise_conv2d_transpose fc fractional_max_pool2d fractional_max_pool3d lp_pool2d
    max_pool2d_v2 max_pool2d_with_index max_pool3d_with_index pool2d pool3d unpool unpool3d spp im2sequence fold unfold
    bicubic_interp bicubic_interp_v2 bilinear_interp bilinear_interp_v2 bilinear_tensor_product interp_antialias
    linear_interp linear_interp_v2 nearest_interp nearest_interp_v2 trilinear_interp trilinear_interp_v2
    affine_grid grid_sample grid_sampler correlation temporal_shift row_conv
    cudnn_lstm gru gru_unit lstm rnn embedding lookup_table lookup_table_v2
    flash_attn memory_efficient_attention fused_softmax_mask fused_softmax_mask_upper_triangle
    dequantize_abs_max dequantize_linear dequantize_log fake_channel_wise_dequantize_max_abs
    fake_channel_wise_quantize_dequantize_abs_max fake_dequantize_max_abs fake_quantize_dequantize_abs_max
    fake_quantize_dequantize_moving_average_abs_max quantize_linear weight_dequantize weight_only_linear

    broadcast_tensors channel_shuffle concat crop crop_tensor diag diag_embed diag_v2 diagonal expand
    expand_as expand_as_v2 expand_v2 fill_diagonal fill_diagonal_tensor flatten flatten2 flatten_contiguous_range flip
    gather gather_nd gather_tree index_add index_elementwise_get index_fill index_put index_sample index_select
    masked_fill masked_select multiplex pad pad2d pad3d pad_constant_like partial_concat partial_sum pixel_shuffle
    pixel_unshuffle put_along_axis repeat_interleave repeat_interleave_with_tensor_index reshape reshape2 reverse roll
    rot90 scatter scatter_nd_add segment_pool sequence_mask set_value set_value_with_tensor shard_index shuffle_channel
    slice space_to_depth split_with_num squeeze squeeze2 stack strided_slice take_along_axis tile transpose transpose2
    unbind unique_with_counts unsqueeze unsqueeze2 unstack view_dtype view_shape view_slice

    anchor_generator bipartite_match box_clip box_coder collect_fpn_proposals ctc_align density_prior_box
    distribute_fpn_proposals edit_distance beam_search beam_search_decode crf_decoding generate_proposals
    generate_proposals_v2 iou_similarity matrix_nms multiclass_nms multiclass_nms2 multiclass_nms3 nms
    polygon_box_transform prior_box prroi_pool psroi_pool roi_align roi_pool target_assign viterbi_decode yolo_box
    yolo_box_head yolo_box_post

    cholesky cholesky_solve det determinant eig eigh eigvals eigvalsh inverse lstsq lu lu_unpack matrix_rank qr slogdet
    slogdeterminant solve svd triangular_solve
"""
ALLOWED_OPERATIONS = frozenset(_NAMES.split())


def refused_operations(names: set[str]) -> list[str]:
    """Of names as Paddle has them ("pd_op.relu_", "relu"), those that are not allowed, sorted."""
    refused = []
    for name in names:
        dialect, found, kind = name.rpartition(".")
        if (found and dialect not in DIALECTS) or kind.rstrip("_") not in ALLOWED_OPERATIONS:
            refused.append(name)
    return sorted(refused)
