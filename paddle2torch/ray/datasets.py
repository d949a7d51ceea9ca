"""Ray Data: a pool of actors that read pages, and the job that `paddle2torch ocr --engine ray` runs."""

from __future__ import annotations

import functools
import logging
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from paddle2torch.device import available_cores
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.model_zoo.show import show_text
from paddle2torch.ocr.pipeline import AUTO, settle
from paddle2torch.ocr.writers.parquet import COMPRESSION, page_schema
from paddle2torch.ray.files import find_files, is_address, open_store
from paddle2torch.ray.reading import MODELS, Options, PageReader, count_pages, pack_model
from paddle2torch.zoo.resolve import resolve

try:
    import pyarrow
    import pyarrow.dataset
    import pyarrow.fs
    import ray
    import ray.data
    import ray.exceptions
    from ray.data.block import BlockMetadata
    from ray.data.checkpoint import CheckpointConfig
    from ray.data.datasource import Datasource, ReadTask
except ImportError as error:
    raise ConfigError(f"reading on many machines needs Ray: pip install 'paddle2torch[ray]' ({error})") from None

PAGES_PER_BLOCK = 32
"""Pages that an actor is given at once, of a written file, and of a checkpoint: what each actor reads again at most."""

FILES_PER_TASK = 100
"""Files whose pages are counted by one task."""

TAKEN = pyarrow.schema(
    {"id": pyarrow.string(), "source": pyarrow.string(), "first": pyarrow.int32(), "last": pyarrow.int32()}
)
"""The rows that actors are given."""


SPARE = 1
SPARE_WITH_CHECKPOINTS = 2
"""CPUs of the cluster that no actor may have: Ray lists and counts files with one, and with checkpoints leaves out what
is done with another, by an actor of its own. Without them it waits for ever."""


def connect() -> None:
    """Use the cluster of RAY_ADDRESS, or the one that runs on this machine, or start one here.

    One that is started has a CPU for each core, and those that are spared: what they do is little.
    """
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if ray.is_initialized():
        return
    options = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        ray.init(address="auto", **options)
    except ConnectionError:
        ray.init(address="local", num_cpus=available_cores() + SPARE_WITH_CHECKPOINTS, **options)


def read_pages(inputs: Iterable[str | Path], *, pages_per_block: int = PAGES_PER_BLOCK) -> ray.data.Dataset:
    """A row {id, source, first, last} for each page of files, folders, globs, or addresses of them; see `find_files`.

    The pages of PDFs and TIFFs are counted by tasks of the cluster, which fetch those that have an address. Blocks have
    `pages_per_block` rows. Raises `ConfigError` where there are no files.
    """
    files = find_files(inputs)
    if not files:
        raise ConfigError("there are no images or PDFs to read")
    dataset = ray.data.read_datasource(_Pages(files), override_num_blocks=math.ceil(len(files) / FILES_PER_TASK))
    return dataset.repartition(target_num_rows_per_block=pages_per_block)


def ocr(
    dataset: ray.data.Dataset,
    *,
    actors: int | tuple[int, int] | None = None,
    cpus: int = 1,
    gpus: float = 0,
    memory: int | None = None,
    dpi: float | None = None,
    max_bytes: int | None = None,
    **settings: Any,
) -> ray.data.Dataset:
    """Read pages in a pool of actors: a row of `writers.parquet` for each page; what cannot be read is one too.

    Args:
        dataset: rows with `source` (a path or an address) and, both or none, `first` and `last`: pages from 1, both
            read. An `id` is kept for ranges of one page.
        actors: by default one for every `cpus` of the cluster but one (with checkpoints two), or for every `gpus` of
            its GPUs; two numbers for a cluster that grows.
        cpus: of an actor, which reads with as many processes of one thread.
        gpus: of an actor, a part of one or more.
        memory: bytes of a process, see `Processes`.
        dpi: pixels to the inch of rendered pages of PDFs, see `paddle2torch.ocr.pages.read_pages`.
        max_bytes: memory for decoding one picture, see `load_image`.
        settings: of `OCR`; a model is a name or a Hub repository, which each machine fetches once, or a folder, which
            is sent; those that the language chooses are settled here, for all machines.

    Raises:
        ConfigError: where the actors would leave no CPU to find pages with: the job would wait for ever.
    """
    device = settings.pop("device", None) or "cpu"
    if gpus and device == "cpu":
        device = "cuda"
    settings = settle(settings)
    named = {name: settings[name] for name in MODELS if isinstance(settings.get(name), (str, Path))}
    sent = {name: _sent(model) for name, model in named.items() if model != AUTO}
    with_checkpoints = ray.data.DataContext.get_current().checkpoint_config is not None
    spare = SPARE_WITH_CHECKPOINTS if with_checkpoints else SPARE
    least, largest = actors_of(ray.cluster_resources(), actors, cpus, gpus, spare)
    return dataset.map_batches(
        _Actor,
        fn_constructor_args=({**settings, **sent, "device": device}, Options(cpus, memory, dpi, max_bytes)),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=largest, max_tasks_in_flight_per_actor=2),
        num_cpus=cpus,
        num_gpus=gpus or None,
        zero_copy_batch=True,
    )


def run_job(
    inputs: Iterable[str | Path],
    output: str,
    *,
    resume: bool = False,
    pages_per_block: int = PAGES_PER_BLOCK,
    **options: Any,
) -> tuple[int, list[str]]:
    """Read files and write their pages as Parquet into a folder or an address; go on with what was written.

    What was written is noted in a second folder, `OUTPUT.checkpoint`. options: of `ocr`. Returns how many pages the
    output has, and the errors of those that could not be read. Raises `ConfigError` for an output that is there
    without `resume`, or without what was noted of it.
    """
    output = output if is_address(output) else str(Path(output).absolute())
    store, path = open_store(output)
    if "/" not in path:
        raise ConfigError(f"{output} is a whole store: choose a folder in it")
    noted = f"{path}.checkpoint"
    if _is_there(store, path):
        if not resume:
            raise ConfigError(f"{output} has pages already: go on with them (--resume) or choose another folder")
        if not _is_there(store, noted):
            raise ConfigError(f"{output} has pages, and {noted} does not say which: choose another folder")
    elif store.get_file_info(noted).type == pyarrow.fs.FileType.Directory:
        store.delete_dir(noted)  # of an output that was removed
    context = ray.data.DataContext.get_current()
    before = context.checkpoint_config
    if not sys.stderr.isatty():
        context.enable_progress_bars = False
    # Not in the folder: Ray would take its files for those of an unfinished write.
    config = CheckpointConfig(
        id_column="id", checkpoint_path=noted, override_filesystem=store, delete_checkpoint_on_success=False
    )
    config.checkpoint_actor_pool_max_size = 1  # it would take up to ten CPUs
    context.checkpoint_config = config
    try:
        pages = read_pages(inputs, pages_per_block=pages_per_block)
        ocr(pages, **options).write_parquet(path, filesystem=store, compression=COMPRESSION)
    except ray.exceptions.RayError as error:
        raise Paddle2TorchError(f"the job ended, and --resume goes on with it: {reason_of(error)}") from error
    finally:
        context.checkpoint_config = before
    return summary(output)


def reason_of(error: Exception) -> str:
    """What an error of Ray comes from: the last line of the traceback that it holds, of a worker or an actor."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Paddle2TorchError):
        return str(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return show_text(lines[-1] if lines else type(error).__name__, 500)


def summary(output: str) -> tuple[int, list[str]]:
    """How many pages a folder or an address has, and the errors of those that could not be read."""
    store, path = open_store(output)
    pages = pyarrow.dataset.dataset(path, filesystem=store, format="parquet", schema=page_schema())
    failed = pages.to_table(columns=["error"], filter=pyarrow.dataset.field("error").is_valid())
    return pages.count_rows(), failed["error"].to_pylist()


def actors_of(
    resources: Mapping[str, float], actors: int | tuple[int, int] | None, cpus: int, gpus: float, spare: int
) -> tuple[int, int]:
    """The least and the largest number of actors, where a cluster has `resources` and `spare` CPUs are left.

    Other arguments as of `ocr`. Raises `ConfigError` where there are not as many CPUs or GPUs.
    """
    total = int(resources.get("CPU", 0))
    most = (total - spare) // cpus
    if gpus:
        most = min(most, int(resources.get("GPU", 0) / gpus))
    least, largest = actors if isinstance(actors, tuple) else (actors or most, actors or most)
    if not 1 <= least <= most or largest < least:
        needed = f"{cpus} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        raise ConfigError(
            f"{least} actors of {needed} are not from 1 to {max(most, 0)}: {spare} of the cluster's {total} CPUs are "
            "left to find pages with, or the job would wait for ever (on one machine `ray start --head --num-cpus N` "
            "may claim more than there are)"
        )
    return least, largest


def _is_there(store: pyarrow.fs.FileSystem, path: str) -> bool:
    selector = pyarrow.fs.FileSelector(path, allow_not_found=True)
    return any(entry.path.endswith(".parquet") for entry in store.get_file_info(selector))


def _sent(model: str | Path) -> Any:
    """What the machines are told of a model: a name that they can obtain, or its files."""
    resolved = resolve(model)
    if resolved.folder is None or resolved.card is not None:
        return str(model)
    return ray.put(pack_model(resolved.folder))


class _Actor(PageReader):
    """The reader in an actor, where models that were sent are references."""

    def __init__(self, settings: Mapping[str, Any], options: Options) -> None:
        given = {
            name: ray.get(value) if isinstance(value, ray.ObjectRef) else value for name, value in settings.items()
        }
        super().__init__(given, options)


class _Pages(Datasource):
    """Files, whose pages are counted by tasks."""

    def __init__(self, files: list[str]) -> None:
        super().__init__()
        self._files = files

    def estimate_inmemory_data_size(self) -> int | None:
        """Not known before the pages are counted."""
        return None

    def get_read_tasks(self, parallelism: int, *others: Any, **options: Any) -> list[ReadTask]:
        """A task for every `FILES_PER_TASK` files."""
        parts = (self._files[at : at + FILES_PER_TASK] for at in range(0, len(self._files), FILES_PER_TASK))
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(functools.partial(_count, part), unknown, schema=TAKEN) for part in parts]


def _count(files: list[str]) -> list[pyarrow.Table]:
    return [pyarrow.Table.from_pylist(list(count_pages(files)), schema=TAKEN)]
