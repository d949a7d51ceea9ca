"""`paddle2torch init`: settings ready to edit, from an official recipe or a yml, for fine-tuning on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from paddle2torch.converters.templates import Template, from_card
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.training.config_files import write_settings
from paddle2torch.training.distillation_yml import official_distillation
from paddle2torch.training.official import official_settings
from paddle2torch.training.settings import Settings, SplitSettings, with_charset, with_classes
from paddle2torch.zoo.resolve import obtain_converted, resolve

CARDS = 8
"""GPUs that the official recipes are for: their rates go with so many batches a step."""

CPU_BATCH: Mapping[str, int] = {"rec": 16, "det": 2, "cls": 64}
"""What fits into a few GB, and takes some seconds a step, where there is no GPU."""

LEAST_RATE: Mapping[str, float] = {"rec": 1 / 20, "det": 1 / 20, "cls": 1 / 2}
"""Of the official rate of Adam and its like: with small batches less would hardly learn. New classes are learnt as from
the start.
"""

WARM_UP = 1.0
"""Epochs in which the rate rises for a model that can read already; the official ones are for new weights."""


def init(
    name: str,
    folder: Path,
    *,
    yml: Path | None = None,
    charset: Path | None = None,
    classes: str | None = None,
    teacher: str | None = None,
    official: bool = False,
    full: bool = False,
) -> tuple[str, ...]:
    """Write `config.json` and `model_config.json` for training the model `name` into `folder`.

    They are for fine-tuning on this machine: a batch that it can hold, the official rate scaled to it, a short warm-up,
    as many workers as it has cores to spare. `config.json` has what one changes, and what else differs from the recipe.

    Args:
        name: a name of the zoo or the folder of a converted model: where training starts.
        folder: is made; raises `ConfigError` where one of the files is there already.
        yml: a PaddleOCR training yml whose values are taken in place of the official recipe's; only the workers are
            those of this machine.
        charset: a character set for a recogniser, in place of the model's: characters that both have keep their rows.
        classes: other classes for a classifier, see `with_classes`: those that both have keep their rows.
        teacher: a recogniser of the same characters to learn from, by name or folder; in a distillation's yml, what
            its teacher is.
        official: write the recipe, or the yml, as it is.
        full: write every value. A yml's always are.

    Returns what should be known: what is scaled, and which keys of the yml were not used, and why.
    """
    config, notes = _model_config(name)
    config, more = _trainable(config)
    notes += more
    if yml is None:
        settings = official_settings(config, pretrained=name)
        if teacher is not None:
            settings = replace(settings, loss=official_distillation(config, _model_config(teacher)[0], teacher))
    else:
        from paddle2torch.training.data.loaders import check_transforms
        from paddle2torch.training.paddleocr_yml import translate

        translation = translate(yml, pretrained=name, teacher=teacher)
        settings = translation.settings
        config = merged(translation.template, config)
        try:
            for training, split in ((True, settings.data.train), (False, settings.data.eval)):
                check_transforms(split, config, training=training, max_text_length=settings.data.max_text_length)
        except ConfigError as error:
            raise ConfigError(f"{yml}: {error}") from None
        notes += translation.lines()
    if charset is not None:
        config, more = with_charset(config, charset)
        notes += more
    if classes is not None:
        config, more = with_classes(config, classes)
        notes += more
    if not official:
        if yml is None:
            settings, more = fine_tuned(settings, config.task)
            notes += more
        settings = with_workers_for_this_machine(settings)
    write_settings(settings, config, folder, full=full or yml is not None)
    return tuple(notes)


def fine_tuned(settings: Settings, task: str) -> tuple[Settings, list[str]]:
    """An official recipe for a model that can read already, on one machine, and what was changed.

    The rate goes with the samples of a step. On a CPU the batch is `CPU_BATCH`.
    """
    train, loader = settings.data.train, settings.data.train.loader
    official, rate, warm_up = loader.batch_size_per_card, settings.optimizer.lr, settings.schedule.warmup_epoch
    batch = official if torch.cuda.is_available() else min(official, CPU_BATCH[task])
    least = 0.0 if settings.optimizer.name == "Momentum" else LEAST_RATE[task]
    scaled = float(f"{rate * max(batch / (official * CARDS), least):.2g}")
    train = replace(train, loader=replace(loader, batch_size_per_card=batch))
    settings = replace(
        settings,
        data=replace(settings.data, train=train),
        optimizer=replace(settings.optimizer, lr=scaled),
        schedule=replace(settings.schedule, warmup_epoch=min(warm_up, WARM_UP)),
    )
    new = settings.schedule.warmup_epoch
    return settings, [
        f"for fine-tuning on one device: batches of {batch} (officially {CARDS} x {official}), a rate of {scaled:g} "
        f"({rate:g}) that goes with the batch, and a warm-up of {new:g} epoch ({warm_up:g}). "
        f"--official writes the recipe as it is, for new weights on {CARDS} GPUs"
    ]


def with_workers_for_this_machine(settings: Settings) -> Settings:
    """With as many workers as the machine that trains has cores to spare."""

    def free(split: SplitSettings) -> SplitSettings:
        return replace(split, loader=replace(split.loader, num_workers=None))

    return replace(
        settings, data=replace(settings.data, train=free(settings.data.train), eval=free(settings.data.eval))
    )


def _model_config(name: str) -> tuple[ModelConfig, list[str]]:
    """The settings of a converted model, or where it is not converted yet, those that its card tells."""
    resolved = resolve(name)
    card, folder = resolved.card, resolved.converted
    if folder is None and card is None:
        folder = obtain_converted(resolved)
    if folder is not None:
        return ModelConfig.load(folder), []
    assert card is not None
    note = (
        f"{card.name} is not converted here yet: model_config.json follows its card, not its checkpoint. Where only "
        f"an inference release of it can be had, `paddle2torch convert {card.name}` first"
    )
    return from_card(card).config(), [note]


def _trainable(config: ModelConfig) -> tuple[ModelConfig, list[str]]:
    """The training form of a converted model, and what was decided for one that has lost a part of it."""
    if config.form == "training":
        return config, []
    notes = [f"{config.name} is an inference release: `train` makes its training branches anew, and reads as it does"]
    if config.head.name == "MultiHead":
        # No other head is there to guide the backbone.
        ctc = {key: value for key, value in config.head.options["ctc"].items() if key != "use_guide"}
        alone = {"ctc": ctc, "nrtr": None, "sar": None}
        options = {key: alone.get(key, value) for key, value in config.head.options.items()}
        config = replace(config, head=replace(config.head, options=options))
        notes.append("it has no NRTR or SAR head: CTC alone trains it")
    return config.with_form("training"), notes


def merged(template: Template, start: ModelConfig) -> ModelConfig:
    """What a yml describes, in place of the model that training starts from; kernels that no yml tells stay."""
    config = template.config()
    known = start.head.options.get("ctc", {})
    if config.head.name == start.head.name == "MultiHead" and "last_kernel_size" in known:
        ctc = {**config.head.options["ctc"], "last_kernel_size": known["last_kernel_size"]}
        config = replace(config, head=replace(config.head, options={**config.head.options, "ctc": ctc}))
    return config
