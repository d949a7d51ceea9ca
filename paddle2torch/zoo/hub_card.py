"""The README.md of a model on the Hub: its metadata, where it comes from, what was measured, how it is used."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from paddle2torch._version import __version__
from paddle2torch.model_zoo.cards import Card, HubSource, find_card
from paddle2torch.model_zoo.config import ClsPostprocess, ModelConfig, Task
from paddle2torch.model_zoo.show import show_text
from paddle2torch.model_zoo.strict_json import to_json
from paddle2torch.zoo.run_card import Trained

# What the Hub calls the tasks; it filters by them, and shows the widget that belongs to one.
PIPELINE_TAGS: Mapping[Task, str] = {"rec": "image-to-text", "det": "object-detection", "cls": "image-classification"}
TASKS: Mapping[Task, str] = {
    "rec": "reads line images",
    "det": "finds the text on a page",
    "cls": "tells which way up a line or page is",
}
SHOWN_CHARACTERS = 200
SHOWN_CLASSES = 20
# The cards name languages as PaddleOCR does; the Hub wants ISO codes. What has none ("digits") is left out.
_LANGUAGE_CODES = {
    "ch": "zh",
    "chinese_cht": "zh",
    "french": "fr",
    "german": "de",
    "japan": "ja",
    "ka": "kn",
    "korean": "ko",
}


def hub_card(
    config: ModelConfig, repo: str, licence: str, figures: Mapping[str, Any] | None, trained: Trained | None = None
) -> str:
    """The text of the README.md.

    figures: one entry of what `paddle2torch verify --json` prints. trained: what a training left beside the weights.
    """
    card = find_card(config.name)
    codes = [_LANGUAGE_CODES.get(code, code) for code in card.languages] if card else []
    languages = [
        code for code in dict.fromkeys(codes) if re.fullmatch("[a-z]{2,3}|multilingual", code) and code != "any"
    ]
    results = [
        *([] if figures is None else _results(config, figures)),
        *([] if trained is None else _measured(config, trained)),
    ]
    base = _base(card)
    relation: dict[str, Any] = {"base_model_relation": "finetune"} if base is not None and trained is not None else {}
    metadata = ModelCardData(
        language=languages or None,
        license=licence,
        library_name="paddle2torch",
        pipeline_tag=PIPELINE_TAGS[config.task],
        tags=["ocr", "paddleocr", "pp-ocr", "pytorch", "safetensors"],
        model_name=config.name if results else None,
        eval_results=results or None,
        # What the Hub shows a model as made from.
        base_model=base,
        **relation,
        # The Hub runs no models of this library: a widget would only show an error.
        inference=False,
    )
    architecture = " with ".join(part.name for part in config.parts)
    characters = f", {len(config.charset)} characters" if config.charset is not None else ""
    parts = [
        f"---\n{metadata.to_yaml()}\n---\n",
        f"# {config.name}\n",
        f"A PP-OCR model in PyTorch, which {_what(config)}: {architecture}, in {config.form} form{characters}. "
        f"Weights as safetensors, settings as JSON, for the library paddle2torch {__version__}.\n",
        _usage(config, repo),
        *([] if config.charset is None else [_characters(config.charset)]),
        _source(config, card),
        *([] if trained is None else [_training(trained)]),
        _parity(figures),
        _licence(licence, card),
    ]
    return str(ModelCard("\n".join(parts)))


def _classes(config: ModelConfig) -> tuple[str, ...]:
    """The labels of a classifier of other classes than ways to turn an image; empty for every other model."""
    labels = config.postprocess.labels if isinstance(config.postprocess, ClsPostprocess) else ()
    return () if all(label.partition("_")[0].isdecimal() for label in labels) else labels


def _what(config: ModelConfig) -> str:
    """What a model does."""
    if labels := _classes(config):
        more = f" and {len(labels) - SHOWN_CLASSES:,} more" if len(labels) > SHOWN_CLASSES else ""
        return f"tells images apart ({', '.join(map(_markdown, labels[:SHOWN_CLASSES]))}{more})"
    return TASKS[config.task]


def _usage(config: ModelConfig, repo: str) -> str:
    if _classes(config):
        return (
            "## Usage\n\n```python\nimport cv2\nfrom paddle2torch import load_pretrained\n"
            "from paddle2torch.tasks.orientation import Classifier\n\n"
            f'model = load_pretrained("{repo}")\n'
            '(found,) = Classifier(model, model.config)([cv2.imread("image.jpg")])\n'
            "print(found.label, found.score)\n```\n"
        )
    use = {
        "rec": f'reader = OCR(rec="{repo}")\nfor line in reader("page.jpg"):\n    print(line.text, line.score)',
        "det": f'reader = OCR(det="{repo}")\nfor line in reader("page.jpg"):\n    print(line.box, line.text)',
        "cls": f'reader = OCR(cls="{repo}")\nfor line in reader("page.jpg"):\n    print(line.text, line.score)',
    }[config.task]
    shape = "(N, 3, 48, W)" if config.task == "rec" else "(N, 3, H, W)"
    return (
        "## Usage\n\n```\npip install paddle2torch\n"
        f"paddle2torch ocr page.jpg --{config.task} {repo}\n```\n\n"
        "```python\nfrom paddle2torch import OCR, load_pretrained\n\n"
        f'model = load_pretrained("{repo}", fused=True)  # an nn.Module; takes float32 {shape}\n{use}\n```\n'
    )


def _characters(charset: Sequence[str]) -> str:
    """How many characters the model tells apart, and a look at them."""
    scripts: dict[str, int] = {}
    for character in charset:
        # The first word of a letter's name in Unicode is its script.
        name = unicodedata.name(character[0], "")
        letter = name and unicodedata.category(character[0]).startswith("L")
        kind = name.split()[0].capitalize().replace("Cjk", "Chinese") if letter else "other"
        scripts[kind] = scripts.get(kind, 0) + 1
    counts = sorted(scripts.items(), key=lambda entry: (entry[0] == "other", -entry[1]))
    first = "".join(character for character in charset if not character.isspace())[:SHOWN_CHARACTERS]
    more = f" and {len(charset) - len(first):,} more" if len(charset) > len(first) else ""
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in counts)
    return (
        f"## Characters\n\n{len(charset):,}: {kinds}. All of them, in the order of the classes, are in "
        f'`model_config.json` under "charset".\n\n{_markdown(first)}{more}\n'
    )


def _licence(licence: str, card: Card | None) -> str:
    origin = f" They are those of {card.name}, which PaddlePaddle published under {card.licence}." if card else ""
    return f"## Licence\n\nThe weights: {_markdown(licence)}.{origin} The library paddle2torch: MIT.\n"


def _base(card: Card | None) -> str | None:
    """The Hub repository of the model that the card is about."""
    if card is None:
        return None
    return next((source.repo for source in card.sources.inference if isinstance(source, HubSource)), None)


def _source(config: ModelConfig, card: Card | None) -> str:
    lines = ["## Source\n"]
    origin = config.origin
    if origin is not None:
        lines.append(f"- from: {origin.kind}" + (f" ({_markdown(origin.converter)})" if origin.converter else ""))
        lines += [f"- {_markdown(name)}: sha256 {_markdown(digest)}" for name, digest in origin.files.items()]
        lines += [f"- {_markdown(note)}" for note in origin.notes]
    if card is not None:
        lines.append(f"- the architecture is {card.name} of PaddleOCR (PaddlePaddle, {card.licence})")
    if len(lines) == 1:
        lines.append("- not recorded")
    return "\n".join(lines) + "\n"


def _parity(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return "## Parity with Paddle\n\nNot measured for this upload: `paddle2torch verify` does it.\n"
    layers, worst = _worst(figures)
    rows = [f"| {kind}, worst layer | {value:.1e} |" for kind, value in worst.items() if value is not None]
    output = figures["output"]
    verdict = "holds" if figures["holds"] else "does not hold"
    return (
        f"## Parity with Paddle\n\n`paddle2torch verify` {verdict}: {len(layers)} layers against "
        f"{_markdown(str(figures['reference']))}, {_markdown(str(figures['engine']))} "
        f"{_markdown(str(figures['engine_version']))}, torch {_markdown(str(figures['torch_version']))}. "
        f"Differences, of each layer's largest value:\n\n| | |\n| --- | --- |\n"
        + "\n".join(rows)
        + "\n"
        + f"| output, absolute | {float(output['absolute']):.1e} |\n"
    )


def _training(trained: Trained) -> str:
    """The card of the training: what was measured, on which data, with which settings."""
    card = trained.card
    lines = ["## Training\n"]
    if card.started_from:
        lines.append(f"- {_markdown(card.started_from)}, {trained.step:,} steps")
    lines += [
        f"- {_markdown(split)} data: {data.samples:,} samples, digest {_markdown(data.digest)}"
        for split, data in card.data.items()
    ]
    lines.append("- " + ", ".join(f"{_markdown(name)} {_markdown(said)}" for name, said in card.versions.items()))
    if trained.metrics:
        lines += ["", f"On the evaluation data, after step {trained.measured:,}:\n", "| | |", "| --- | --- |"]
        lines += [f"| {_markdown(name)} | {value:.4f} |" for name, value in trained.metrics.items()]
    # Every line of it begins with a bracket, a blank or a quotation mark: none can end the block.
    settings = json.dumps(to_json(card.settings), ensure_ascii=True, indent=2)
    lines += ["", "<details><summary>Settings</summary>\n", f"```json\n{settings}\n```\n", "</details>"]
    return "\n".join(lines) + "\n"


def _measured(config: ModelConfig, trained: Trained) -> list[EvalResult]:
    """What was measured as the Hub shows scores."""
    data = trained.card.data.get("eval")
    return [
        EvalResult(
            task_type=PIPELINE_TAGS[config.task],
            dataset_type="evaluation-data-of-the-training",
            dataset_name="evaluation data of the training" + ("" if data is None else f", {data.samples:,} samples"),
            metric_type=show_text(name, 100),
            metric_value=value,
        )
        for name, value in trained.metrics.items()
    ]


def _markdown(text: str) -> str:
    """A text from outside in Markdown: on one line, and nothing in it is markup."""
    return re.sub(r"([\\`*\[\]<>#|~&])", r"\\\1", show_text(text, 300))


def _worst(figures: Mapping[str, Any]) -> tuple[list[Any], dict[str, float | None]]:
    """The layers that were compared, and the largest error of them by kind."""
    layers = [layer for layer in figures["layers"] if layer["leaf"]]
    return layers, {
        kind: max((float(layer[kind]["relative"]) for layer in layers if layer[kind] is not None), default=None)
        for kind in ("local", "accumulated")
    }


def _results(config: ModelConfig, figures: Mapping[str, Any]) -> list[EvalResult]:
    """The figures as the Hub shows scores: how far the outputs are from Paddle's."""
    _, worst = _worst(figures)
    values = {
        "largest difference of the output from Paddle's, absolute": float(figures["output"]["absolute"]),
        **{f"largest {kind} error of a layer, relative": value for kind, value in worst.items()},
    }
    return [
        EvalResult(
            task_type=PIPELINE_TAGS[config.task],
            dataset_type="paddle2torch-verify",
            dataset_name=f"images of paddle2torch verify, against {show_text(str(figures['reference']), 300)}",
            metric_type="parity",
            metric_name=name,
            metric_value=value,
        )
        for name, value in values.items()
        if value is not None and math.isfinite(value)  # the Hub takes JSON, which has no other numbers
    ]
