// The stem of PP-OCRv6's detectors and recognisers, line by line.
//
// Its maps are the largest of the network, and the convolutions between them small: written and read again, as one
// convolution after another does, they wait for the memory. Here only those lines of each map are kept that the next
// convolution sees.
#pragma once

#include "convolve.h"
#include "maps.h"

namespace paddle2torch {

// A 3x3 convolution of an image, of stride 2; two of 2x2 that pad at the end alone; a 3x3 of stride 2 that sees the
// first map, pooled, and the third one side by side; and a pointwise one.
struct Stem {
  Problem first, second, third, fourth, last;
};

// A band of lines of a stem's results, from the top down.
template <class P>
struct StemBand {
  using Value = typename P::Value;
  using Stored = typename P::Stored;
  static_assert(std::is_same_v<Value, Stored>, "lines are read where they are kept");

  const Stem& stem;
  int64_t height, width;  // of the first three maps
  Workplace<P> image_lines, pixels;
  int64_t first_pitch, second_pitch, joined_pitch, fourth_pitch;  // values from one kept line to the next
  Stored *firsts, *seconds, *joined, *fourths;
  int64_t image, first_done, second_done, joined_done;  // the next line of each

  explicit StemBand(const Stem& stem)
      : stem(stem),
        height(stem.first.geometry.height(stem.first.height)),
        width(stem.first.geometry.width(stem.first.width)),
        image_lines(stem.first, width),
        pixels(stem.last, stem.fourth.geometry.width(width)),
        first_pitch(pitch(width, stem.first.outputs)),
        second_pitch(pitch(width, stem.second.outputs)),
        joined_pitch(pitch(width, stem.fourth.channels)),
        fourth_pitch(pitch(stem.fourth.geometry.width(width), stem.fourth.outputs)) {}

  // A pixel of zeros before and behind the line; behind it also what a kernel of FEW rows reads and does not use.
  static int64_t pitch(int64_t pixels, int64_t channels) {
    return rounded_up((pixels + 2 + 2 * FEW) * channels, 32) + 32;  // no power of two, and whole lines of the cache
  }

  int64_t kept() const { return 3 * first_pitch + 2 * second_pitch + 3 * joined_pitch + fourth_pitch; }
  int64_t bytes() const { return kept() * sizeof(Stored) + std::max(image_lines.bytes, pixels.bytes); }

  void settle(char* memory) {
    firsts = reinterpret_cast<Stored*>(memory);
    seconds = firsts + 3 * first_pitch;
    joined = seconds + 2 * second_pitch;
    fourths = joined + 3 * joined_pitch;
    image_lines.settle(memory + kept() * sizeof(Stored));
    pixels.settle(memory + kept() * sizeof(Stored));
    std::fill(firsts, firsts + kept(), Stored{});
  }

  Stored* first_line(int64_t y) const { return firsts + y % 3 * first_pitch; }
  Stored* second_line(int64_t y) const { return seconds + y % 2 * second_pitch; }

  // Three lines that follow on one another and begin with an odd one are as far apart as their places are: the next
  // three begin with the last of these, and go back.
  Stored* joined_line(int64_t y) const { return joined + (y % 2 == 0 ? 1 : (y + 4) % 4 == 3 ? 0 : 2) * joined_pitch; }

  // Results of a convolution whose kernel sees the lines from `x` on, each `run` values after the one before.
  void multiply_lines(const Problem& p, const Stored* x, int64_t run, int64_t count, Stored* to, int64_t row) const {
    const Geometry& g = p.geometry;
    const Rows<P> rows{x, g.stride_width * p.channels, g.kernel_height, run, g.kernel_width * p.channels / P::GROUP};
    multiply_all(p, image, 0, rows, count, pixels, to, row);
  }

  void make_first() {
    const int64_t y = first_done++;
    Stored* to = first_line(y);
    if (y >= height) {
      std::fill(to, to + width * stem.first.outputs, Stored{});
      return;
    }
    Workplace<P> at = image_lines;
    const Rows<P> rows = rows_of_lines(stem.first, image, y, 0, width, at);
    multiply_all(stem.first, image, 0, rows, width, at, to, stem.first.outputs);
  }

  void make_second() {
    const int64_t y = second_done++;
    Stored* to = second_line(y);
    if (y >= height) {
      std::fill(to, to + width * stem.second.outputs, Stored{});
      return;
    }
    while (first_done <= y + 1) make_first();
    multiply_lines(stem.second, first_line(y), first_line(y + 1) - first_line(y), width, to, stem.second.outputs);
  }

  void make_joined() {
    const int64_t y = joined_done++, channels = stem.first.outputs, row = stem.fourth.channels;
    Stored* to = joined_line(y) + row;  // behind the pixel of zeros
    if (y < 0 || y >= height) {
      std::fill(to, to + width * row, Stored{});
      return;
    }
    while (second_done <= y + 1) make_second();
    const Stored* above = first_line(y);
    const int64_t down = first_line(y + 1) - above;
    for (int64_t x = 0; x < width; ++x) pool_channels(above + x * channels, channels, down, channels, to + x * row);
    multiply_lines(stem.third, second_line(y), second_line(y + 1) - second_line(y), width, to + channels, row);
  }

  // Lines `begin` to `end` of the results of an image.
  void run(int64_t number, int64_t begin, int64_t end) {
    const int64_t results = stem.fourth.geometry.width(width);
    image = number;
    joined_done = 2 * begin - 1;
    first_done = second_done = std::max<int64_t>(0, joined_done);
    for (int64_t y = begin; y < end; ++y) {
      while (joined_done <= 2 * y + 1) make_joined();
      const Stored* x = joined_line(2 * y - 1);
      multiply_lines(stem.fourth, x, joined_line(2 * y) - x, results, fourths, stem.fourth.outputs);
      Workplace<P> at = pixels;
      const Rows<P> rows = rows_of_pixels<P>(stem.last, nullptr, fourths, results, at);
      const int64_t height_of_results = stem.fourth.geometry.height(height);
      auto* to = static_cast<Stored*>(stem.last.out) + (image * height_of_results + y) * results * stem.last.outputs;
      multiply_all(stem.last, image, 0, rows, results, at, to, stem.last.outputs);
    }
  }
};

template <class P>
void run_stem(const Stem& stem) {
  const StemBand<P> plan(stem);
  const int64_t lines = stem.fourth.geometry.height(plan.height), images = stem.first.images;
  // Neighbouring bands compute three lines of the first map twice.
  const int64_t bands = threads() == 1 ? 1 : 4 * threads();
  const int64_t band = std::max<int64_t>(4, (lines * images + bands - 1) / bands);
  for_tiles(images, lines, band, false, [&](int64_t image, int64_t first, int64_t last) {
    StemBand<P> lines_of_band = plan;
    lines_of_band.settle(scratch(plan.bytes()));
    lines_of_band.run(image, first, last);
  });
}

}  // namespace paddle2torch
