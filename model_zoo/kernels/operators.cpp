// The kernels as PyTorch operators, through PyTorch's stable interface: `model_zoo/forms/native.py` has the modules
// that call them.

#include <cstdio>
#include <exception>
#include <optional>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "attend.h"
#include "classify.h"
#include "maps.h"
#include "stem.h"
#include "strips.h"

namespace {

using namespace paddle2torch;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Numbers = std::vector<double>;
using Sizes = std::vector<int64_t>;

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// The kernels assume (N, C, H, W) with the channels last and no gaps.
void check_map(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && x.is_cpu(), "a map is (N, C, H, W) on the CPU");
  int64_t expected = 1;
  for (const int dimension : {1, 3, 2, 0}) {
    STD_TORCH_CHECK(x.size(dimension) == 1 || x.stride(dimension) == expected, "the channels must be last");
    expected *= x.size(dimension);
  }
}

const float* floats(const std::optional<Tensor>& tensor, int64_t count) {
  if (!tensor.has_value()) return nullptr;
  STD_TORCH_CHECK(tensor->scalar_type() == ScalarType::Float && tensor->is_contiguous() && tensor->numel() >= count,
                  "float32, contiguous and of ", count, " values was expected");
  return data<const float>(*tensor);
}

Problem problem(const Tensor& x, const Sizes& geometry, bool planes = false) {
  if (planes) {
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float && x.is_contiguous() && x.is_cpu(),
                    "an image is float32 (N, 3, H, W)");
  } else {
    check_map(x);
  }
  STD_TORCH_CHECK(
      geometry.size() == 6 || geometry.size() == 8,
      "a geometry is the kernel, the strides and the padding, of height and width, and perhaps that at the end");
  Problem p{};
  p.x = x.data_ptr();
  p.planes = planes;
  p.images = x.size(0), p.channels = planes ? IMAGE_CHANNELS : x.size(1), p.height = x.size(2), p.width = x.size(3);
  p.geometry = {geometry[0], geometry[1], geometry[2], geometry[3], geometry[4], geometry[5]};
  if (geometry.size() == 8) p.geometry.padding_below = geometry[6], p.geometry.padding_right = geometry[7];
  return p;
}

Tail tail(const Numbers& numbers) {
  STD_TORCH_CHECK(numbers.size() == 3, "a tail is an activation, scale and shift");
  return {static_cast<Activation>(static_cast<int64_t>(numbers[0])), static_cast<float>(numbers[1]),
          static_cast<float>(numbers[2])};
}

// `stored` is the type of maps, which the weights have as well.
void set_depthwise(Problem& p, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                   ScalarType stored) {
  const Geometry& g = p.geometry;
  p.depth_bias = floats(bias, p.channels);
  if (!weight.has_value()) return;
  STD_TORCH_CHECK(weight->scalar_type() == stored && weight->is_contiguous() &&
                      weight->numel() >= g.kernel_height * g.kernel_width * p.channels,
                  "the depthwise weights do not fit");
  const int64_t kernel = g.kernel_width, largest_stride = kernel <= 5 ? 2 : 1;
  STD_TORCH_CHECK(p.depth_bias && g.kernel_height == kernel &&
                      (kernel == 3 || kernel == 5 || kernel == 7 || kernel == 9) && g.stride_width >= 1 &&
                      g.stride_width <= largest_stride && p.channels >= HALF,
                  "not a depthwise convolution that there is a kernel for");
  p.depth_weight = weight->data_ptr();
}

Tensor output_for(Problem& p, ScalarType type) {
  const std::vector<int64_t> sizes{p.images, p.outputs, p.geometry.height(p.height), p.geometry.width(p.width)};
  STD_TORCH_CHECK(sizes[2] > 0 && sizes[3] > 0, "the map is smaller than the kernel");
  Tensor out = torch::stable::empty(sizes, type, std::nullopt, std::nullopt, std::nullopt, MemoryFormat::ChannelsLast);
  p.out = out.data_ptr();
  return out;
}

template <class P>
constexpr ScalarType scalar_type_of = P::GROUP == 1   ? ScalarType::Float
                                      : P::GROUP == 2 ? ScalarType::BFloat16
                                                      : ScalarType::Char;

// A convolution's weights: packed already, or float32 (images, outputs, depth), of each image its own, packed here.
template <class P>
std::unique_ptr<typename P::Weight[]> set_weights(Problem& p, const Tensor& weight) {
  const Geometry& g = p.geometry;
  const int64_t depth = p.depth_weight ? p.channels : g.kernel_height * g.kernel_width * p.channels;
  STD_TORCH_CHECK(!p.copies_lines() || p.channels % P::GROUP == 0, "channels must fill groups of ", P::GROUP);
  const int64_t size = Panels(p.outputs).size(groups_of<P>(p), P::GROUP);
  std::unique_ptr<typename P::Weight[]> packed;
  if (weight.dim() == 3) {
    STD_TORCH_CHECK(weight.size(0) == p.images && weight.size(1) == p.outputs && weight.size(2) == depth,
                    "weights do not fit");
    if constexpr (P::GROUP < 4) {
      packed.reset(new typename P::Weight[p.images * size]);
      for (int64_t image = 0; image < p.images; ++image)
        pack(floats(weight, 0) + image * p.outputs * depth, p.outputs, depth, depth, P::GROUP,
             packed.get() + image * size, [](float value) {
          typename P::Weight some[HALF];
          store<HALF>(some, Floats<HALF>{} + value);
          return some[0];
        });
      p.weight = packed.get();
      p.weight_image = size;
    } else {
      STD_TORCH_CHECK(false, "weights in int8 are packed before");
    }
  } else {
    STD_TORCH_CHECK(weight.scalar_type() == scalar_type_of<P> && weight.is_contiguous() && weight.numel() == size,
                    "the weights were not packed for this convolution");
    STD_TORCH_CHECK(P::GROUP < 4 || (p.steps && p.weight_scale), "int8 needs scales");
    p.weight = weight.data_ptr();
  }
  return packed;
}

// Values in `layout` and `tails` of each convolution after the first: LAYOUT and TAILS of
// `model_zoo/forms/operators.py`.
constexpr size_t LAYOUT = 8, TAILS = 7;

// The convolutions after `first`, each of the result of the one before.
template <class P>
std::vector<Problem> with_following(const Problem& first, ScalarType stored, const std::vector<Tensor>& then,
                                    const Sizes& layout, const Numbers& tails) {
  std::vector<Problem> problems{first};
  const size_t count = layout.size() / LAYOUT, each = P::GROUP < 4 ? 4 : 6;
  STD_TORCH_CHECK(layout.size() == count * LAYOUT && tails.size() == count * TAILS && then.size() == count * each,
                  "convolutions that follow lack something");
  for (size_t i = 0; i < count; ++i) {
    const Problem& before = problems.back();
    const int64_t* numbers = layout.data() + i * LAYOUT;
    const double* tail_numbers = tails.data() + i * TAILS;
    const Tensor* tensors = then.data() + i * each;
    Problem p{};
    p.images = before.images, p.channels = before.outputs;
    p.height = before.geometry.height(before.height), p.width = before.geometry.width(before.width);
    STD_TORCH_CHECK(p.height > 0 && p.width > 0, "the map is smaller than the kernel");
    p.outputs = numbers[0];
    p.geometry = {numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7]};
    p.bias = floats(tensors[1], Panels(p.outputs).outputs_padded());
    if (numbers[1] != 0) set_depthwise(p, tensors[2], tensors[3], stored);
    STD_TORCH_CHECK(!p.copies_lines(), "what follows is pointwise or separable");
    p.depth_tail = tail({tail_numbers[0], tail_numbers[1], tail_numbers[2]});
    p.tail = tail({tail_numbers[3], tail_numbers[4], tail_numbers[5]});
    p.offset = static_cast<float>(tail_numbers[6]);
    if constexpr (P::GROUP == 4) {
      p.weight_scale = floats(tensors[4], Panels(p.outputs).outputs_padded());
      p.steps = floats(tensors[5], p.channels);
    }
    STD_TORCH_CHECK(tensors[0].dim() == 1, "weights that follow are packed");
    set_weights<P>(p, tensors[0]);
    problems.push_back(p);
  }
  return problems;
}

// A map that is added to a result whose sums nothing follows: of the result's size, or enlarged to it.
Coarse added_map(const Problem& p, const Tensor& added, ScalarType stored) {
  check_map(added);
  const int64_t height = added.size(2), width = added.size(3);
  const int64_t factor = height > 0 ? p.geometry.height(p.height) / height : 0;
  STD_TORCH_CHECK(factor >= 1 && height * factor == p.geometry.height(p.height) &&
                      width * factor == p.geometry.width(p.width) && added.size(0) == p.images &&
                      added.size(1) == p.outputs && added.scalar_type() == stored &&
                      p.tail.activation == Activation::none && p.tail.scale == 1.0f && p.tail.shift == 0.0f,
                  "a map that is added does not fit");
  return {added.data_ptr(), factor, height, width, 1};
}

template <class P>
Tensor run(Problem& p, const Tensor& weight, ScalarType stored, const std::optional<Tensor>& added,
           std::vector<Coarse>& sources, const std::vector<Tensor>& then, const Sizes& layout, const Numbers& tails) {
  const auto packed = set_weights<P>(p, weight);
  p.coarse = sources.data(), p.sources = static_cast<int>(sources.size());
  std::vector<Problem> problems = with_following<P>(p, stored, then, layout, tails);
  std::vector<Coarse> of_last = problems.size() == 1 ? sources : std::vector<Coarse>{};
  if (added.has_value()) {
    Problem& last = problems.back();
    of_last.push_back(added_map(last, *added, stored));
    last.coarse = of_last.data(), last.sources = static_cast<int>(of_last.size());
  }
  Tensor out = output_for(problems.back(), stored);
  if (is_small<P>(problems)) {
    std::vector<Tensor> between;
    for (size_t i = 0; i < problems.size(); ++i) {
      if (i > 0) problems[i].x = between.back().data_ptr();
      if (i + 1 < problems.size()) between.push_back(output_for(problems[i], stored));
      convolve<P>(problems[i]);
    }
  } else {
    convolve_all<P>(problems);
  }
  return out;
}

Tensor convolve_(const Tensor& x, const Tensor& weight, const Tensor& bias, const std::optional<Tensor>& weight_scale,
                 const std::optional<Tensor>& depth_weight, const std::optional<Tensor>& depth_bias,
                 const std::optional<Tensor>& gate, const std::optional<Tensor>& steps, double offset,
                 const std::optional<Tensor>& coarse, const std::optional<Tensor>& coarser,
                 const std::optional<Tensor>& coarsest, const std::optional<Tensor>& added, int64_t outputs,
                 const Sizes& geometry, const Numbers& depth_tail, const Numbers& tail_,
                 const std::vector<Tensor>& then, const Sizes& layout, const Numbers& tails) {
  const bool planes = x.dim() == 4 && x.size(1) == 3 && !depth_weight.has_value();
  Problem p = problem(x, geometry, planes);
  STD_TORCH_CHECK(!planes || (!gate.has_value() && !p.geometry.pointwise()),
                  "an image has no gate, and a kernel to go over it");
  p.outputs = outputs;
  const int64_t padded = Panels(outputs).outputs_padded();
  p.bias = floats(bias, padded);
  p.weight_scale = floats(weight_scale, padded);
  p.depth_tail = tail(depth_tail), p.tail = tail(tail_);
  p.gate = floats(gate, p.images * p.channels);
  p.steps = floats(steps, p.channels);
  p.offset = static_cast<float>(offset);
  const bool bfloat16 =
      weight.scalar_type() == ScalarType::BFloat16 || (!planes && x.scalar_type() == ScalarType::BFloat16);
  const ScalarType stored = bfloat16 ? ScalarType::BFloat16 : ScalarType::Float;
  set_depthwise(p, depth_weight, depth_bias, stored);
  STD_TORCH_CHECK(planes || x.scalar_type() == stored, "the map is not of the weights' type");

  const int64_t out_height = p.geometry.height(p.height), out_width = p.geometry.width(p.width);
  std::vector<Coarse> sources;
  for (const std::optional<Tensor>& source : {coarse, coarser, coarsest}) {
    if (!source.has_value()) continue;
    check_map(*source);
    const int64_t height = source->size(2) - 1, width = source->size(3) - 1;
    const int64_t factor = height > 0 ? out_height / height : 0, kinds = factor == 2 ? 2 : 3;
    STD_TORCH_CHECK(factor >= 2 && height * factor == out_height && width * factor == out_width &&
                        source->size(0) == p.images && source->size(1) == kinds * kinds * outputs &&
                        source->scalar_type() == stored,
                    "a coarse map does not fit");
    sources.push_back({source->data_ptr(), factor, height, width, kinds});
  }

  const ScalarType kind = weight.dim() == 3 ? stored : weight.scalar_type();
  if (stored == ScalarType::Float && kind == ScalarType::Float)
    return run<Float32>(p, weight, stored, added, sources, then, layout, tails);
#if defined(PADDLE2TORCH_BFLOAT16)
  if (stored == ScalarType::BFloat16 && kind == ScalarType::BFloat16)
    return run<BFloat16s>(p, weight, stored, added, sources, then, layout, tails);
#endif
#if defined(PADDLE2TORCH_INT8)
  if (stored == ScalarType::Float && kind == ScalarType::Char)
    return run<Int8>(p, weight, stored, added, sources, then, layout, tails);
#endif
  STD_TORCH_CHECK(false, "this processor has no kernel for these types");
}

Tensor depthwise_(const Tensor& x, const Tensor& weight, const Tensor& bias, const Sizes& geometry,
                  const Numbers& tail_) {
  Problem p = problem(x, geometry);
  p.outputs = p.channels;
  set_depthwise(p, weight, bias, x.scalar_type());
  p.depth_tail = tail(tail_);
  Tensor out = output_for(p, x.scalar_type());
  if (x.scalar_type() == ScalarType::Float) {
    depthwise<float>(p);
  } else {
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16, "float32 or bfloat16 was expected");
    depthwise<BFloat16>(p);
  }
  return out;
}

Tensor attend_(const Tensor& qkv, int64_t heads, double scale) {
  STD_TORCH_CHECK(qkv.dim() == 3 && qkv.is_contiguous() && qkv.is_cpu() && heads > 0 && qkv.size(2) % (3 * heads) == 0,
                  "queries, keys and values are (N, T, 3 * heads * width)");
  const int64_t width = qkv.size(2) / 3 / heads;
  const std::vector<int64_t> sizes{qkv.size(0), qkv.size(1), heads * width};
  Tensor out = torch::stable::empty(sizes, qkv.scalar_type());
  if (qkv.scalar_type() == ScalarType::Float) {
    attend(data<const float>(qkv), sizes[0], sizes[1], heads, width, static_cast<float>(scale), data<float>(out));
  } else {
    STD_TORCH_CHECK(qkv.scalar_type() == ScalarType::BFloat16, "float32 or bfloat16 was expected");
    attend(data<const BFloat16>(qkv), sizes[0], sizes[1], heads, width, static_cast<float>(scale), data<BFloat16>(out));
  }
  return out;
}

// `results` says by its size alone what is wanted: 2, the best class and its probability, or as many as classes.
Tensor classify_(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t classes, const Tensor& results) {
  STD_TORCH_CHECK(x.dim() == 3 && x.is_contiguous() && x.is_cpu(), "sequences are (N, T, C)");
  STD_TORCH_CHECK(
      results.dim() == 1 && (results.size(0) == 2 || results.size(0) == classes) && classes > 2 && classes < 1 << 24,
      "results are 2, or as many as the ", classes, " classes");
  const std::vector<int64_t> sizes{x.size(0), x.size(1), results.size(0)};
  Problem p{};
  p.x = x.data_ptr();
  p.images = p.height = 1, p.width = sizes[0] * sizes[1], p.channels = x.size(2);
  p.outputs = classes;
  p.bias = floats(bias, Panels(classes).outputs_padded());
  Tensor out = torch::stable::empty(sizes, ScalarType::Float);
  STD_TORCH_CHECK(weight.dim() == 1 && weight.scalar_type() == x.scalar_type(),
                  "the weights are not of the map's type");
  if (x.scalar_type() == ScalarType::Float) {
    set_weights<Float32>(p, weight);
    classify<Float32>(p, sizes[2], data<float>(out));
    return out;
  }
#if defined(PADDLE2TORCH_BFLOAT16)
  if (x.scalar_type() == ScalarType::BFloat16) {
    set_weights<BFloat16s>(p, weight);
    classify<BFloat16s>(p, sizes[2], data<float>(out));
    return out;
  }
#endif
  STD_TORCH_CHECK(false, "this processor has no kernel for these types");
}

Tensor mean_(const Tensor& x) {
  const Problem p = problem(x, {1, 1, 1, 1, 0, 0});
  const std::vector<int64_t> sizes{p.images, p.channels};
  Tensor out = torch::stable::empty(sizes, ScalarType::Float);
  if (x.scalar_type() == ScalarType::Float) {
    mean<float>(p, data<float>(out));
  } else {
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16, "float32 or bfloat16 was expected");
    mean<BFloat16>(p, data<float>(out));
  }
  return out;
}

Tensor spread_(const Tensor& x, int64_t factor) {
  check_map(x);
  STD_TORCH_CHECK(factor > 0 && x.size(1) == factor * factor, "a square of ", factor, " has so many channels");
  const std::vector<int64_t> sizes{x.size(0), 1, x.size(2) * factor, x.size(3) * factor};
  Tensor out = torch::stable::empty(sizes, ScalarType::Float);
  if (x.scalar_type() == ScalarType::Float) {
    spread(data<const float>(x), x.size(0), x.size(2), x.size(3), factor, data<float>(out));
  } else {
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16, "float32 or bfloat16 was expected");
    spread(data<const BFloat16>(x), x.size(0), x.size(2), x.size(3), factor, data<float>(out));
  }
  return out;
}

Tensor join_pooled_(const Tensor& x, const Tensor& y) {
  check_map(x);
  check_map(y);
  for (const int dimension : {0, 2, 3})
    STD_TORCH_CHECK(x.size(dimension) == y.size(dimension), "maps of one size are joined");
  STD_TORCH_CHECK(x.scalar_type() == y.scalar_type(), "maps of one type are joined");
  Problem p = problem(x, {1, 1, 1, 1, 0, 0});
  p.outputs = p.channels + y.size(1);
  Tensor out = output_for(p, x.scalar_type());
  if (x.scalar_type() == ScalarType::Float) {
    join_pooled(p, data<const float>(y));
  } else {
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16, "float32 or bfloat16 was expected");
    join_pooled(p, data<const BFloat16>(y));
  }
  return out;
}

// The five convolutions of a stem: of each a weight and a bias in `tensors`, its outputs, and TAIL numbers.
template <class P>
Tensor run_stem(const Tensor& x, const std::vector<Tensor>& tensors, const Sizes& outputs, const Numbers& tails) {
  constexpr int COUNT = 5, TAIL = 3;
  const Geometry at_the_end = [] {
    Geometry g(2, 2, 1, 1, 0, 0);
    g.padding_below = g.padding_right = 1;
    return g;
  }();
  const Geometry geometries[COUNT] = {{3, 3, 2, 2, 1, 1}, at_the_end, at_the_end, {3, 3, 2, 2, 1, 1}, {}};
  STD_TORCH_CHECK(x.dim() == 4 && x.size(1) == 3 && tensors.size() == 2 * COUNT && outputs.size() == COUNT &&
                      tails.size() == TAIL * COUNT,
                  "a stem is five convolutions of an image");
  Stem stem;
  Problem* const problems[COUNT] = {&stem.first, &stem.second, &stem.third, &stem.fourth, &stem.last};
  stem.first = problem(x, {3, 3, 2, 2, 1, 1}, true);
  for (int i = 0; i < COUNT; ++i) {
    Problem& p = *problems[i];
    if (i > 0) {
      const Problem& before = *problems[i - 1];
      p = Problem{};
      p.images = before.images, p.channels = before.outputs + (i == 3 ? stem.first.outputs : 0);
      p.height = before.geometry.height(before.height), p.width = before.geometry.width(before.width);
    }
    p.geometry = geometries[i];
    p.outputs = outputs[i];
    p.bias = floats(tensors[2 * i + 1], Panels(p.outputs).outputs_padded());
    p.tail = tail({tails[TAIL * i], tails[TAIL * i + 1], tails[TAIL * i + 2]});
    STD_TORCH_CHECK(tensors[2 * i].dim() == 1 && p.channels % P::GROUP == 0, "the weights of a stem are packed");
    set_weights<P>(p, tensors[2 * i]);
  }
  Tensor out = output_for(stem.last, scalar_type_of<P>);
  paddle2torch::run_stem<P>(stem);
  return out;
}

Tensor stem_(const Tensor& x, const std::vector<Tensor>& tensors, const Sizes& outputs, const Numbers& tails) {
  STD_TORCH_CHECK(!tensors.empty(), "a stem is five convolutions of an image");
  if (tensors[0].scalar_type() == ScalarType::Float) return run_stem<Float32>(x, tensors, outputs, tails);
#if defined(PADDLE2TORCH_BFLOAT16)
  if (tensors[0].scalar_type() == ScalarType::BFloat16) return run_stem<BFloat16s>(x, tensors, outputs, tails);
#endif
  STD_TORCH_CHECK(false, "this processor has no kernel for these types");
}

template <class T, int GROUP>
Tensor packed(const Tensor& weight) {
  const int64_t outputs = weight.size(0), depth = weight.size(1);
  const std::vector<int64_t> size{Panels(outputs).size((depth + GROUP - 1) / GROUP, GROUP)};
  Tensor to = torch::stable::empty(size, weight.scalar_type());
  pack(data<const T>(weight), outputs, depth, depth, GROUP, data<T>(to), [](T value) { return value; });
  return to;
}

Tensor pack_(const Tensor& weight) {
  STD_TORCH_CHECK(weight.dim() == 2 && weight.is_cpu() && weight.is_contiguous(), "weights are (outputs, depth)");
  switch (weight.scalar_type()) {
    case ScalarType::Float:
      return packed<float, 1>(weight);
    case ScalarType::BFloat16:
      return packed<BFloat16, 2>(weight);
    case ScalarType::Char:
      return packed<int8_t, 4>(weight);
    default:
      STD_TORCH_CHECK(false, "float32, bfloat16 or int8 was expected");
  }
}

// The types that this processor has kernels for: float32, and bfloat16 and int8 where it multiplies them.
Sizes features_() {
  Sizes found{LANES, 0, 0};
#if defined(PADDLE2TORCH_BFLOAT16)
  found[1] = 1;
#endif
#if defined(PADDLE2TORCH_INT8)
  found[2] = 1;
#endif
  return found;
}

}  // namespace

// The operators as functions that compiled code calls directly; the way through PyTorch's dispatcher takes longer than
// some convolutions. Schemas and signatures are those of `model_zoo/forms/operators.py`, which checks them.

namespace {

Tensor borrowed(AtenTensorHandle handle) {
  AtenTensorHandle own = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(handle, &own));
  return Tensor(own);
}

std::optional<Tensor> borrowed(AtenTensorHandle* handle) {
  if (handle == nullptr) return std::nullopt;
  return borrowed(*handle);
}

template <class Function>
AOTITorchError reported(AtenTensorHandle* result, Function function) {
  try {
    const Tensor out = function();
    return aoti_torch_new_tensor_handle(out.get(), result);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "paddle2torch: %s\n", error.what());
    return AOTI_TORCH_FAILURE;
  }
}

}  // namespace

extern "C" {

AOTITorchError aoti_torch_cpu_convolve(
    AtenTensorHandle x, AtenTensorHandle weight, AtenTensorHandle bias, AtenTensorHandle* weight_scale,
    AtenTensorHandle* depth_weight, AtenTensorHandle* depth_bias, AtenTensorHandle* gate, AtenTensorHandle* steps,
    double offset, AtenTensorHandle* coarse, AtenTensorHandle* coarser, AtenTensorHandle* coarsest,
    AtenTensorHandle* added, int64_t outputs, const int64_t* geometry, int64_t geometry_size, const double* depth_tail,
    int64_t depth_tail_size, const double* tail, int64_t tail_size, const AtenTensorHandle* then, int64_t then_size,
    const int64_t* layout, int64_t layout_size, const double* tails, int64_t tails_size, AtenTensorHandle* result) {
  return reported(result, [&] {
    std::vector<Tensor> following;
    for (int64_t i = 0; i < then_size; ++i) following.push_back(borrowed(then[i]));
    return convolve_(borrowed(x), borrowed(weight), borrowed(bias), borrowed(weight_scale), borrowed(depth_weight),
                     borrowed(depth_bias), borrowed(gate), borrowed(steps), offset, borrowed(coarse), borrowed(coarser),
                     borrowed(coarsest), borrowed(added), outputs, Sizes(geometry, geometry + geometry_size),
                     Numbers(depth_tail, depth_tail + depth_tail_size), Numbers(tail, tail + tail_size), following,
                     Sizes(layout, layout + layout_size), Numbers(tails, tails + tails_size));
  });
}

AOTITorchError aoti_torch_cpu_depthwise(AtenTensorHandle x, AtenTensorHandle weight, AtenTensorHandle bias,
                                        const int64_t* geometry, int64_t geometry_size, const double* tail,
                                        int64_t tail_size, AtenTensorHandle* result) {
  return reported(result, [&] {
    return depthwise_(borrowed(x), borrowed(weight), borrowed(bias), Sizes(geometry, geometry + geometry_size),
                      Numbers(tail, tail + tail_size));
  });
}

AOTITorchError aoti_torch_cpu_attend(AtenTensorHandle qkv, int64_t heads, double scale, AtenTensorHandle* result) {
  return reported(result, [&] { return attend_(borrowed(qkv), heads, scale); });
}

AOTITorchError aoti_torch_cpu_classify(AtenTensorHandle x, AtenTensorHandle weight, AtenTensorHandle bias,
                                       int64_t classes, AtenTensorHandle results, AtenTensorHandle* result) {
  return reported(result,
                  [&] { return classify_(borrowed(x), borrowed(weight), borrowed(bias), classes, borrowed(results)); });
}

AOTITorchError aoti_torch_cpu_mean_of_channels(AtenTensorHandle x, AtenTensorHandle* result) {
  return reported(result, [&] { return mean_(borrowed(x)); });
}

AOTITorchError aoti_torch_cpu_spread(AtenTensorHandle x, int64_t factor, AtenTensorHandle* result) {
  return reported(result, [&] { return spread_(borrowed(x), factor); });
}

AOTITorchError aoti_torch_cpu_join_pooled(AtenTensorHandle x, AtenTensorHandle y, AtenTensorHandle* result) {
  return reported(result, [&] { return join_pooled_(borrowed(x), borrowed(y)); });
}

AOTITorchError aoti_torch_cpu_stem(AtenTensorHandle x, const AtenTensorHandle* tensors, int64_t tensors_size,
                                   const int64_t* outputs, int64_t outputs_size, const double* tails,
                                   int64_t tails_size, AtenTensorHandle* result) {
  return reported(result, [&] {
    std::vector<Tensor> given;
    for (int64_t i = 0; i < tensors_size; ++i) given.push_back(borrowed(tensors[i]));
    return stem_(borrowed(x), given, Sizes(outputs, outputs + outputs_size), Numbers(tails, tails + tails_size));
  });
}

}  // extern "C"

STABLE_TORCH_LIBRARY(paddle2torch, library) {
  library.def(
      "convolve(Tensor x, Tensor weight, Tensor bias, Tensor? weight_scale, Tensor? depth_weight, Tensor? depth_bias, "
      "Tensor? gate, Tensor? steps, float offset, Tensor? coarse, Tensor? coarser, Tensor? coarsest, Tensor? added, "
      "int outputs, int[] geometry, float[] depth_tail, float[] tail, Tensor[] then, int[] layout, float[] tails) -> "
      "Tensor");
  library.def("depthwise(Tensor x, Tensor weight, Tensor bias, int[] geometry, float[] tail) -> Tensor");
  library.def("attend(Tensor qkv, int heads, float scale) -> Tensor");
  library.def("classify(Tensor x, Tensor weight, Tensor bias, int classes, Tensor results) -> Tensor");
  library.def("mean_of_channels(Tensor x) -> Tensor");
  library.def("spread(Tensor x, int factor) -> Tensor");
  library.def("join_pooled(Tensor x, Tensor y) -> Tensor");
  library.def("stem(Tensor x, Tensor[] tensors, int[] outputs, float[] tails) -> Tensor");
  library.def("pack(Tensor weight) -> Tensor");
  library.def("features() -> int[]");
}

STABLE_TORCH_LIBRARY_IMPL(paddle2torch, CompositeExplicitAutograd, library) {
  library.impl("features", TORCH_BOX(&features_));
}

STABLE_TORCH_LIBRARY_IMPL(paddle2torch, CPU, library) {
  library.impl("convolve", TORCH_BOX(&convolve_));
  library.impl("depthwise", TORCH_BOX(&depthwise_));
  library.impl("attend", TORCH_BOX(&attend_));
  library.impl("classify", TORCH_BOX(&classify_));
  library.impl("mean_of_channels", TORCH_BOX(&mean_));
  library.impl("spread", TORCH_BOX(&spread_));
  library.impl("join_pooled", TORCH_BOX(&join_pooled_));
  library.impl("stem", TORCH_BOX(&stem_));
  library.impl("pack", TORCH_BOX(&pack_));
}
