"""Sizes, batches and decoding are PaddleOCR's, shown with made-up probabilities and a network that reads bar codes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from coloured_bars import Shadow
from material import SHARED
from torch import Tensor, nn

from paddle2torch.converters.convert import convert_checkpoint, convert_export
from paddle2torch.converters.templates import from_card
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.config import (
    Component,
    CTCDecode,
    ModelConfig,
    RecPreprocess,
)
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.tasks.images import ImageError, load_image
from paddle2torch.tasks.recognition import (
    Char,
    Extent,
    Line,
    RecognitionError,
    Recognizer,
    decode_ctc,
    decode_nrtr,
    padded_width,
    resize_norm,
    words,
)

LETTERS = tuple("abcdefghij")
EXTENT = Extent(width=320, resized=320, padded=320)


def config(charset: Sequence[str] = LETTERS, *, right_to_left: bool = False) -> ModelConfig:
    return ModelConfig(
        name="toy_rec",
        task="rec",
        form="fused",
        backbone=Component("PPLCNetV3"),
        neck=None,
        head=Component("MultiHead", {"classes": len(charset) + 1}),
        preprocess=RecPreprocess(),
        postprocess=CTCDecode(right_to_left),
        charset=tuple(charset),
    )


def bars(text: str, scale: int = 1, width: int | None = None) -> np.ndarray:
    """A line image of bars 8 pixels wide; letter i has grey level 10 (i + 1), the ground 128, and "-" is ground."""
    levels = np.repeat([128 if c == "-" else 10 * (LETTERS.index(c) + 1) for c in text], 8 * scale).astype(np.uint8)
    levels = np.pad(levels, (0, max(0, (width or 0) - len(levels))), constant_values=128)
    return np.repeat(np.repeat(levels[None, :, None], 48 * scale, axis=0), 3, axis=2)


class BarReader(nn.Module):
    """Reads `bars`: each step of 8 pixels is the letter of the grey level in its middle, with probability 0.9."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        self.shapes.append(tuple(x.shape))
        level = (x[:, 0, 24, 4::8] * 0.5 + 0.5) * 255
        ids = torch.where(level < 105, (level / 10).round().long(), 0)
        ids = ids[:, : x.shape[3] // 8]
        return torch.nn.functional.one_hot(ids, len(LETTERS) + 1) * 0.89 + 0.01


class Constant(nn.Module):
    """Gives the same value for everything."""

    def __init__(self, value: float, classes: int = len(LETTERS) + 1, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value, dtype=dtype))
        self.classes = classes
        self.dtypes: list[torch.dtype] = []
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.dtypes.append(x.dtype)
        return self.value.expand(len(x), x.shape[3] // 8, self.classes)


def decode(
    ids: Sequence[int], scores: Sequence[float] | None = None, charset: Sequence[str] = LETTERS, **options: bool
) -> Line:
    found = np.full(len(ids), 0.5) if scores is None else np.asarray(scores)
    (line,) = decode_ctc(np.asarray([ids]), found.astype(np.float32)[None], charset, [EXTENT], **options)
    assert "".join(char.char for char in line.chars) == line.text
    return line


# Decoding


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([1, 2, 3], "abc"),
        ([1, 1, 1], "a"),
        ([1, 0, 1], "aa"),
        ([0, 1, 1, 0, 0, 1, 2, 2, 0], "aab"),
        ([1, 2, 1], "aba"),
        ([0, 0, 0, 0], ""),
        ([0], ""),
        ([10], "j"),
    ],
)
def test_repeats_are_one_and_blanks_part_equal_characters(ids: list[int], text: str) -> None:
    assert decode(ids).text == text


def test_scores_are_of_the_steps_that_are_kept() -> None:
    line = decode([0, 1, 1, 0, 1, 2], [0.99, 0.5, 0.9, 0.99, 0.25, 0.75])
    assert line.text == "aab"
    assert [char.score for char in line.chars] == [0.5, 0.25, 0.75]
    assert line.score == pytest.approx(0.5)
    assert decode([0, 0], [0.9, 0.9]) == Line("", 0.0, ())


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    ids = np.array([[1, 1, 2], [2, 2, 2], [0, 2, 0]])
    lines = decode_ctc(ids, np.ones((3, 3), np.float32), LETTERS, [EXTENT] * 3)
    assert [line.text for line in lines] == ["ab", "b", "b"]


def test_the_last_class_is_a_space_and_so_is_the_one_before_it() -> None:
    # en_dict.txt ends with a line that holds a space, and use_space_char adds another: 97 classes with the blank.
    charset = (*map(chr, range(33, 127)), " ", " ")
    h, i = 1 + charset.index("H"), 1 + charset.index("i")
    assert len(charset) + 1 == 97
    assert decode([h, 96, i], charset=charset).text == "H i"
    assert decode([h, 95, i], charset=charset).text == "H i"
    assert decode([h, 95, 96, i], charset=charset).text == "H  i"  # two classes are two characters


def test_decoding_agrees_with_the_rule_written_out() -> None:
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 4, (50, 23))
    scores = rng.random((50, 23)).astype(np.float32)
    lines = decode_ctc(ids, scores, LETTERS, [EXTENT] * 50)
    for row, line in enumerate(lines):
        kept = [t for t in range(23) if ids[row, t] and (t == 0 or ids[row, t] != ids[row, t - 1])]
        assert line.text == "".join(LETTERS[ids[row, t] - 1] for t in kept)
        assert line.score == pytest.approx(np.mean([scores[row, t] for t in kept]), abs=1e-6)


ARABIC = (*"جبتث", *"12:.% ", *"xy")


@pytest.mark.parametrize(
    ("read", "text"),
    [
        ("جبت", "تبج"),
        ("12", "12"),
        ("جب12ت", "ت12بج"),
        ("12: جب", "بج :12"),
        ("xy ج1.2%", "1.2%ج xy"),
        ("", ""),
    ],
)
def test_right_to_left_lines_come_in_the_order_in_which_they_are_read(read: str, text: str) -> None:
    ids = [ARABIC.index(char) + 1 for char in read] or [0]
    scores = np.linspace(0.1, 0.9, len(ids))
    plain = decode(ids, scores, ARABIC)
    turned = decode(ids, scores, ARABIC, right_to_left=True)
    assert (plain.text, turned.text) == (read, text)
    assert turned.score == plain.score
    # A character keeps its own score and its place in the image.
    assert sorted(turned.chars, key=lambda char: char.start) == list(plain.chars)


# Where characters are


def test_characters_meet_halfway_and_outer_ones_are_as_wide_as_inside() -> None:
    # 320 pixels, 40 steps of 8: centres at 44, 84 (a run of two) and 132.
    line = decode([0] * 5 + [1] + [0] * 4 + [2, 2] + [0] * 4 + [3] + [0] * 23)
    assert line.text == "abc"
    # Centres: 5.5 * 8 = 44, 11 * 8 = 88, 16.5 * 8 = 132.
    assert [(char.start, char.end) for char in line.chars] == [(22, 66), (66, 110), (110, 154)]


def test_a_wide_gap_is_no_part_of_its_characters() -> None:
    ids = np.zeros(40, int)
    ids[[1, 3, 5, 31, 33]] = [1, 2, 3, 4, 5]
    starts_ends = [(char.start, char.end) for char in decode(ids.tolist()).chars]
    assert starts_ends[1] == (20, 36)
    assert starts_ends[2] == (36, 44 + 16)  # no further than the usual distance of 16
    assert starts_ends[3] == (252 - 16, 260)


def test_the_first_character_is_not_cut_where_the_second_is_near() -> None:
    ids = np.zeros(40, int)
    ids[[5, 6, 10, 14, 15]] = [1, 2, 3, 4, 5]  # centres at 44, 52, 84, 116, 124; the usual distance is 20
    first, *_, last = decode(ids.tolist()).chars
    assert (first.start, first.end) == (34, 48)
    assert (last.start, last.end) == (120, 134)


def test_extents_are_clipped_and_in_order() -> None:
    rng = np.random.default_rng(5)
    for _ in range(100):
        steps = int(rng.integers(1, 60))
        ids = rng.integers(0, 3, (1, steps))
        extent = Extent(width=int(rng.integers(1, 500)), resized=int(rng.integers(1, 321)), padded=320)
        (line,) = decode_ctc(ids, np.ones((1, steps), np.float32), LETTERS, [extent])
        edges = [edge for char in line.chars for edge in (char.start, char.end)]
        assert edges == sorted(edges)
        assert all(0 <= edge <= extent.width for edge in edges)


def test_a_single_character_fills_the_line() -> None:
    (char,) = decode([0, 0, 1, 0]).chars
    assert (char.start, char.end) == (0, 320)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_places_are_in_pixels_of_the_image_that_was_given(scale: int) -> None:
    (line,) = Recognizer(BarReader(), config())([bars("-a-b--c-", scale)])
    assert line.text == "abc"
    centres = [(12 + 28) / 2 * scale]
    assert line.chars[0].end == pytest.approx(centres[0])
    assert line.chars[1].start == pytest.approx(centres[0])
    assert line.chars[1].end == pytest.approx((28 + 52) / 2 * scale)


# Words


def chars(text: str) -> Line:
    return Line(text, 0.5, tuple(Char(c, 0.1 * (i + 1), 10.0 * i, 10.0 * i + 9) for i, c in enumerate(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world", ["Hello,", "world"]),
        ("  a  b ", ["a", "b"]),
        ("", []),
        (" ", []),
        ("3.14 VGG-16", ["3.14", "VGG-16"]),
        ("你好OCR世界", ["你", "好", "OCR", "世", "界"]),
        ("共 3 页", ["共", "3", "页"]),
        ("カタひら한국 말", ["カ", "タ", "ひ", "ら", "한국", "말"]),
        ("名\u3000前", ["名", "前"]),
    ],
)
def test_words_are_between_spaces_and_ideographs_stand_alone(text: str, expected: list[str]) -> None:
    assert [word.text for word in words(chars(text))] == expected


def test_a_word_has_the_place_and_the_mean_score_of_its_characters() -> None:
    first, second = words(chars("ab cd"))
    assert (first.start, first.end, second.start, second.end) == (0, 19, 30, 49)
    assert first.score == pytest.approx(0.15)
    assert second.score == pytest.approx(0.45)


def test_words_of_a_right_to_left_line_have_their_ends_in_order() -> None:
    line = decode([ARABIC.index(c) + 1 for c in "جب ت"], charset=ARABIC, right_to_left=True)
    assert [word.text for word in words(line)] == ["ت", "بج"]
    assert all(word.start < word.end for word in words(line))


# NRTR


def test_nrtr_ends_at_the_end_symbol_and_skips_what_is_no_character() -> None:
    charset = ("a", "b", "c")
    ids = np.array(
        [
            [2, 4, 5, 3, 6, 6],  # start, a, b, end: what follows does not count
            [4, 0, 1, 6, 7, 4],  # padding, unknown, and class 7, which is not a character
            [3, 4, 4, 4, 4, 4],
        ]
    )
    scores = np.array([[1, 0.5, 0.7, 1, 1, 1], [0.5, 1, 1, 0.6, 1, 0.7], [1] * 6], np.float32)
    (first, second, third) = decode_nrtr(ids, scores, charset)
    assert first == ("ab", pytest.approx(0.6))
    assert second == ("aca", pytest.approx(0.6))
    assert third == ("", 0.0)


# Sizes


@pytest.mark.parametrize(
    ("ratio", "width"),
    [
        (0.01, 320),
        (1, 320),
        (320 / 48, 320),
        (6.67, 320),
        (6.7, 321),
        (10.01, 480),
        (60, 2880),
        (66.7, 3200),
        (1000, 3200),
    ],
)
def test_input_widths(ratio: float, width: int) -> None:
    assert padded_width(ratio, RecPreprocess()) == width


def paddleocr_resize(image: np.ndarray, width: int) -> np.ndarray:
    """The rule as PaddleOCR states it, step by step in float32."""
    ratio = image.shape[1] / float(image.shape[0])
    used = width if math.ceil(48 * ratio) > width else math.ceil(48 * ratio)
    resized = cv2.resize(image, (used, 48)).astype("float32").transpose((2, 0, 1)) / 255
    resized -= 0.5
    resized /= 0.5
    padded = np.zeros((3, 48, width), np.float32)
    padded[:, :, :used] = resized
    return padded


@pytest.mark.parametrize(
    ("height", "width"),
    [(48, 100), (34, 114), (31, 97), (300, 20), (20, 1300), (1, 1), (1, 60), (700, 1), (50, 20_000), (48, 320)],
)
def test_resize_norm_is_paddleocr_bit_for_bit(height: int, width: int) -> None:
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    preprocess = RecPreprocess()
    padded = padded_width(width / height, preprocess)
    result = resize_norm(image, 48, padded, preprocess)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, paddleocr_resize(image, padded))


def test_every_value_is_normalised_as_in_float32() -> None:
    image = np.arange(256, dtype=np.uint8)[None, :, None].repeat(48, 0).repeat(3, 2)
    expected = (np.arange(256, dtype=np.float32) / 255 - np.float32(0.5)) / np.float32(0.5)
    np.testing.assert_array_equal(resize_norm(image, 48, 256, RecPreprocess())[1, 7], expected)


def test_resize_norm_writes_all_of_the_row_it_is_given() -> None:
    batch = np.full((2, 3, 48, 320), np.nan, np.float32)
    image = bars("abc")
    assert resize_norm(image, 48, 320, RecPreprocess(), batch[1]) is not None
    np.testing.assert_array_equal(batch[1], resize_norm(image, 48, 320, RecPreprocess()))
    assert np.isnan(batch[0]).all()
    assert (batch[1][:, :, 24:] == 0).all()


def test_constants_and_channel_order_are_those_of_the_settings() -> None:
    preprocess = RecPreprocess(
        image_shape=(3, 32, 100), channel_order="RGB", scale=1 / 127.5, mean=(1.0, 0.5, 0.0), std=(1.0, 2.0, 4.0)
    )
    image = np.full((32, 50, 3), (0, 51, 255), np.uint8)
    result = resize_norm(image, 32, 100, preprocess)
    assert result.shape == (3, 32, 100)
    np.testing.assert_allclose(result[:, 0, 0], [(2 - 1) / 1, (0.4 - 0.5) / 2, 0], atol=1e-6)


# Reading


def test_results_come_in_the_order_of_the_images() -> None:
    texts = ["a", "bcdefghij" * 7, "ab", "cd" * 30, "a" + "-" * 50 + "b", "j"]
    reader = BarReader()
    for padding in ("line", "batch"):
        lines = Recognizer(reader, config(), batch_size=2, padding=padding)([bars(text) for text in texts])
        assert [line.text for line in lines] == [text.replace("-", "") for text in texts]
        assert all(line.score == pytest.approx(0.9, abs=1e-6) for line in lines)


def test_a_line_is_read_at_its_own_width_by_default() -> None:
    reader = BarReader()
    images = [bars("ab", width=width) for width in (500, 16, 400, 24, 500, 3500, 40)]
    together = Recognizer(reader, config())(images)
    assert sorted(reader.shapes) == [(1, 3, 48, 400), (1, 3, 48, 3200), (2, 3, 48, 500), (3, 3, 48, 320)]
    reader.shapes.clear()
    alone = [Recognizer(reader, config())([image])[0] for image in images]
    assert [shape[3] for shape in reader.shapes] == [500, 320, 400, 320, 500, 3200, 320]
    assert together == alone


def test_batches_as_paddleocr_makes_them_for_a_page() -> None:
    reader = BarReader()
    images = [bars("ab", width=width) for width in (500, 16, 400, 24, 600, 700, 40, 800)]
    Recognizer(reader, config(), padding="batch")(images)
    assert sorted(reader.shapes) == [(2, 3, 48, 800), (6, 3, 48, 600)]
    reader.shapes.clear()
    Recognizer(reader, config(), padding="batch", batch_size=3)(images)
    assert sorted(reader.shapes) == [(2, 3, 48, 800), (3, 3, 48, 320), (3, 3, 48, 600)]


def test_batches_are_no_larger_than_asked() -> None:
    reader = BarReader()
    lines = Recognizer(reader, config(), batch_size=4)([bars("abc")] * 9)
    assert sorted(shape[0] for shape in reader.shapes) == [1, 4, 4]
    assert [line.text for line in lines] == ["abc"] * 9


def test_very_wide_narrow_and_tiny_images() -> None:
    shapes = [(48, 20_000), (50, 20_000), (48, 1), (2000, 1), (1, 1), (1, 500)]
    lines = Recognizer(BarReader(), config())([np.full((*shape, 3), 128, np.uint8) for shape in shapes])
    assert [line.text for line in lines] == [""] * len(shapes)
    assert all(line.score == 0.0 for line in lines)


def test_no_images_no_lines() -> None:
    assert Recognizer(BarReader(), config())([]) == []


def test_grey_images_are_read_and_others_refused() -> None:
    recognizer = Recognizer(BarReader(), config())
    assert recognizer([bars("abc")[..., 0]])[0].text == "abc"
    with pytest.raises(ImageError, match="float32"):
        recognizer([bars("abc").astype(np.float32)])
    with pytest.raises(ImageError, match="put the one image into a list"):
        recognizer(bars("abc"))
    assert [line.text for line in recognizer(np.stack([bars("abc"), bars("bcd")]))] == ["abc", "bcd"]


def test_right_to_left_is_taken_from_the_settings() -> None:
    charset = tuple("سبتثجحخدذر")
    (line,) = Recognizer(BarReader(), config(charset, right_to_left=True))([bars("a-b-c")])
    assert line.text == "تبس"


def test_images_come_in_the_type_of_the_weights() -> None:
    model = Constant(0.5, dtype=torch.bfloat16)
    (line,) = Recognizer(model, config())([bars("abc")])
    assert model.dtypes == [torch.bfloat16]
    assert line == Line("", 0.0, ())  # all classes alike: the first one wins, the blank


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_probabilities_that_are_no_numbers_are_an_error(value: float) -> None:
    with pytest.raises(RecognitionError, match=r"toy_rec gives probabilities that are not numbers .*bfloat16"):
        Recognizer(Constant(value, dtype=torch.bfloat16), config())([bars("abc")])


def test_one_nan_among_good_values_is_found() -> None:
    class OneNaN(BarReader):
        def forward(self, x: Tensor) -> Tensor:
            probabilities = super().forward(x)
            probabilities[-1, 3, 5] = math.nan
            return probabilities

    with pytest.raises(RecognitionError, match="not numbers"):
        Recognizer(OneNaN(), config())([bars("abc"), bars("abc")])


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(RecognitionError, match=r"training mode: call model\.eval\(\)"):
        Recognizer(BarReader().train(), config())([bars("abc")])


def test_a_model_of_other_classes_is_refused() -> None:
    with pytest.raises(RecognitionError, match="expected 1 x steps x 11 classes"):
        Recognizer(Constant(0.5, classes=97), config())([bars("abc")])


def test_settings_that_cannot_be() -> None:
    classifier = replace(Shadow.config, name="toy_cls")
    with pytest.raises(ConfigError, match="toy_cls is not a recogniser"):
        Recognizer(BarReader(), classifier)
    with pytest.raises(ConfigError, match="batch_size is at least 1"):
        Recognizer(BarReader(), config(), batch_size=0)
    with pytest.raises(ConfigError, match="padding is"):
        Recognizer(BarReader(), config(), padding="page")  # type: ignore[arg-type]


# The official networks


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared models and PaddleOCR's results for them are not here")
@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("en_PP-OCRv4_rec", "en_PP-OCRv4_rec_train/best_accuracy.pdparams"),
        ("ch_PP-OCRv4_rec", "ch_PP-OCRv4_rec_infer"),
    ],
)
def test_real_lines_read_as_paddleocr_reads_them(name: str, weights: str) -> None:
    path = SHARED / "models" / weights
    convert = convert_checkpoint if path.is_file() else convert_export
    converted = convert(path, from_card(load_card(name)), name=name)
    model = build_model(converted.config).eval()
    model.load_state_dict(converted.state, strict=False)
    expected = json.loads((SHARED / f"reference/lines.{name}.json").read_text(encoding="utf-8"))["lines"]
    images = [load_image(SHARED / "images/lines" / image) for image in expected]
    lines = Recognizer(model, converted.config)(images)
    assert [line.text for line in lines] == [line["text"] for line in expected.values()]
    for line, official in zip(lines, expected.values(), strict=True):
        assert line.score == pytest.approx(official["score"], abs=1e-5)


@pytest.mark.slow
def test_a_stream_reads_as_one_call_does_and_holds_a_window(monkeypatch: pytest.MonkeyPatch, small: Network) -> None:
    monkeypatch.setattr("paddle2torch.tasks.recognition.WINDOW", 2)
    recognizer = Recognizer(small, small.config, batch_size=2)
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (48, 40 + 90 * (index % 5), 3), dtype=np.uint8) for index in range(11)]
    taken = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal taken
        for image in images:
            taken += 1
            yield image

    stream = recognizer.stream(source())
    found = [next(stream)]
    assert taken == 4
    found += stream
    # Not compared bit for bit: which lines share a batch is another matter of rounding.
    expected = recognizer(images)
    assert [line.text for line in found] == [line.text for line in expected]
    assert np.allclose([line.score for line in found], [line.score for line in expected], atol=1e-5)
    assert list(recognizer.stream([])) == []


# Lines that would be squeezed


def read_long(text: str, charset: Sequence[str] = LETTERS, **options: object) -> tuple[Line, BarReader]:
    model = BarReader()
    right_to_left = bool(options.pop("right_to_left", False))
    (line,) = Recognizer(model, config(charset, right_to_left=right_to_left), **options)([bars(text)])  # type: ignore[arg-type]
    return line, model


def letters(count: int, of: str = LETTERS[:9]) -> str:  # type: ignore[assignment]
    rng = np.random.default_rng(count)
    drawn = [of[0]]
    while len(drawn) < count:
        letter = of[int(rng.integers(len(of)))]
        drawn += [letter] if letter != drawn[-1] else []
    return "".join(drawn)


@pytest.mark.parametrize("between", ["", "-", "---"])
@pytest.mark.parametrize("padding", ["line", "batch", "alone"])
def test_a_line_that_would_be_squeezed_is_read_in_pieces(between: str, padding: str) -> None:
    text = between.join(letters(700 // (1 + len(between))))
    line, model = read_long(text, padding=padding)
    assert line.text == text.replace("-", "")
    assert model.shapes[0][3] == 3200  # as PaddleOCR reads it, which its batches depend on
    assert max(shape[3] for shape in model.shapes[1:]) <= 30 * 48
    places = [8 * index + 4 for index, letter in enumerate(text) if letter != "-"]
    middles = [(char.start + char.end) / 2 for char in line.chars]
    np.testing.assert_allclose(middles[1:-1], places[1:-1], atol=12)
    assert line.score == pytest.approx(0.9)


def test_spaces_at_cuts_are_there_once() -> None:
    charset = (*LETTERS[:9], " ")
    words = [letters(3 + index % 4) for index in range(160)]
    # A space is one bar between two of ground.
    line, _ = read_long("-j-".join(words), charset)
    assert line.text == " ".join(words)


def test_equal_letters_at_a_cut_stay_two() -> None:
    assert read_long("-".join("a" * 350))[0].text == "a" * 350


def test_a_long_line_of_a_right_to_left_script_comes_in_reading_order() -> None:
    hebrew = tuple(map(chr, range(0x5D0, 0x5DA)))
    text = letters(700)
    line, _ = read_long(text, hebrew, right_to_left=True)
    assert line.text == "".join(hebrew[LETTERS.index(letter)] for letter in reversed(text))


def test_what_is_hardly_squeezed_is_read_as_paddleocr_reads_it() -> None:
    line, model = read_long("-".join(letters(220)))
    assert model.shapes == [(1, 3, 48, 3200)]
    assert line.text


def test_an_empty_long_line_has_no_text() -> None:
    line, _ = read_long("-" * 700)
    assert (line.text, line.score, line.chars) == ("", 0.0, ())
