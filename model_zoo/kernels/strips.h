// Convolutions one after another in strips, without the maps between them.
#pragma once

#include <vector>

#include "convolve.h"

namespace paddle2torch {

// A map is divided into about STRIPS strips of at least STRIP_AT_LEAST columns, so that the lines that are kept of all
// maps of a strip have at most STRIP_BYTES. Nothing is divided where no convolution's input and output together have
// more than SMALL_BYTES.
constexpr int64_t STRIPS = 4, STRIP_AT_LEAST = 32, STRIP_BYTES = 400000, SMALL_BYTES = 6000000;

// Convolutions one after another, strip by strip: of each map between two of them only those lines are kept that the
// next convolution reads, so that they never leave the cache. All after the first are pointwise or separable.
template <class P>
struct Strip {
  using Value = typename P::Value;
  using Stored = typename P::Stored;

  struct Stage {
    const Problem* problem;
    Workplace<P> at;
    DepthwiseLine<Stored, Value> depthwise;
    int64_t lines, pitch;  // that are kept of its results, and values from one to the next
    int64_t first, last;   // columns of its results
    int64_t done;          // lines of them
    Stored* kept;

    int64_t bytes() const { return lines * pitch * sizeof(Stored); }
  };

  std::vector<Stage> stages;
  int64_t image;

  explicit Strip(const std::vector<Problem>& problems, int64_t columns) : image(0) {
    for (const Problem& p : problems)
      stages.push_back({&p, Workplace<P>(p, 0), depthwise_line_for<Stored, Value>(p), 0, 0, 0, 0, 0, nullptr});
    int64_t widest = columns;
    for (size_t i = stages.size(); i-- > 0;) {
      const Problem& p = *stages[i].problem;
      const int64_t before = std::min(p.width, (widest - 1) * p.geometry.stride_width + p.geometry.kernel_width);
      stages[i].at = Workplace<P>(p, widest);
      if (i > 0) {
        stages[i - 1].lines = p.depth_weight ? p.geometry.kernel_height : 1;
        stages[i - 1].pitch =
            rounded_up(before * p.channels, 32) + 32;  // no power of two, and whole lines of the cache
      }
      widest = before;
    }
  }

  // Bytes of the lines that are kept.
  int64_t kept_bytes() const {
    int64_t bytes = 0;
    for (const Stage& stage : stages) bytes += stage.bytes();
    return bytes;
  }

  int64_t bytes() const {
    int64_t most = 0;
    for (const Stage& stage : stages) most = std::max(most, stage.at.bytes);
    return kept_bytes() + most;
  }

  void settle(char* memory) {
    for (Stage& stage : stages) {
      stage.kept = reinterpret_cast<Stored*>(memory);
      memory += stage.bytes();
    }
    for (Stage& stage : stages) stage.at.settle(memory);
  }

  // Columns first to last of the results of an image.
  void run(int64_t number, int64_t first, int64_t last) {
    image = number;
    for (size_t i = stages.size(); i-- > 0;) {
      const Problem& p = *stages[i].problem;
      const Geometry& g = p.geometry;
      stages[i].first = first, stages[i].last = last, stages[i].done = 0;
      last = std::min(p.width, (last - 1) * g.stride_width - g.padding_width + g.kernel_width);
      first = std::max<int64_t>(0, first * g.stride_width - g.padding_width);
    }
    const Problem& end = *stages.back().problem;
    for (int64_t y = 0; y < end.geometry.height(end.height); ++y) make(stages.size() - 1);
  }

  Stored* line(size_t i, int64_t y) const {
    const Stage& stage = stages[i];
    const Problem& p = *stage.problem;
    if (i + 1 < stages.size()) return stage.kept + y % stage.lines * stage.pitch;
    const int64_t height = p.geometry.height(p.height), width = p.geometry.width(p.width);
    return static_cast<Stored*>(p.out) + ((image * height + y) * width + stage.first) * p.outputs;
  }

  // The next line of a stage's results.
  void make(size_t i) {
    Stage& stage = stages[i];
    const Problem& p = *stage.problem;
    const Geometry& g = p.geometry;
    const int64_t y = stage.done++, count = stage.last - stage.first;
    if (i > 0) {
      const int64_t bottom = std::min(p.height - 1, y * g.stride_height - g.padding_height + g.kernel_height - 1);
      while (stages[i - 1].done <= bottom) make(i - 1);
    }
    Rows<P> rows{};
    if (p.copies_lines()) {
      rows = rows_of_lines(p, image, y, stage.first, stage.last, stage.at);
    } else if (p.depth_weight) {
      const auto lines = i == 0
                             ? lines_of_map<Stored>(p, image, y)
                             : lines_under<Stored>(p, y, stages[i - 1].first, stages[i - 1].last - stages[i - 1].first,
                                                   [&](int64_t number) { return line(i - 1, number); });
      stage.depthwise(p, lines, stage.first, stage.last, stage.at.made, stage.at.row);
      rows = made_rows(p, count, stage.at);
    } else {
      const auto* x =
          i > 0 ? line(i - 1, y)
                : static_cast<const Stored*>(p.x) + ((image * p.height + y) * p.width + stage.first) * p.channels;
      rows = rows_of_pixels(p, p.gate_of(image), x, count, stage.at);
    }
    multiply_all(p, image, y * g.width(p.width) + stage.first, rows, count, stage.at, line(i, y), p.outputs);
  }
};

// Whether whole maps fit into the cache: then nothing has to be computed twice at the edges of strips.
template <class P>
bool is_small(const std::vector<Problem>& problems) {
  int64_t most = 0, before = 0;
  for (const Problem& p : problems) {
    const int64_t after = p.images * p.geometry.height(p.height) * p.geometry.width(p.width) * p.outputs;
    most = std::max(most, before + after), before = after;
  }
  return problems.size() == 1 || most * static_cast<int64_t>(sizeof(typename P::Stored)) <= SMALL_BYTES;
}

template <class P>
void convolve_all(const std::vector<Problem>& problems) {
  const Problem& end = problems.back();
  const int64_t images = end.images, width = end.geometry.width(end.width);
  // Enough strips for all threads, wide enough that neighbours compute little twice, small enough for the cache.
  int64_t strips = std::clamp<int64_t>((STRIPS + images - 1) / images, 1, std::max<int64_t>(1, width / STRIP_AT_LEAST));
  while (strips < width / STRIP_AT_LEAST &&
         Strip<P>(problems, (width + strips - 1) / strips).kept_bytes() > STRIP_BYTES)
    ++strips;
  const int64_t columns = std::min(width, rounded_up((width + strips - 1) / strips, 4));
  const Strip<P> plan(problems, columns);
  for_tiles(images, width, columns, false, [&](int64_t image, int64_t first, int64_t last) {
    Strip<P> strip = plan;
    strip.settle(scratch(plan.bytes()));
    strip.run(image, first, last);
  });
}

}  // namespace paddle2torch
