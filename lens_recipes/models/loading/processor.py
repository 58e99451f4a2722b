"""Read the processor of a checkpoint, with pillow alone where it asks for more than images need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers.utils import cached_file

from lens_recipes.errors import LensError
from lens_recipes.models.images.pillow import check_pillow
from lens_recipes.models.images.processor import check_processor
from lens_recipes.models.loading.reading import (
    CONFIG_FILE,
    PROCESSOR_FILES,
    TOKENIZER_FILE,
    read_processor,
    read_settings,
    read_tokenizer,
)
from lens_recipes.models.loading.tokenizer import FILE_ARGUMENTS
from lens_recipes.terminal import one_line


def processor_of_checkpoint(source: str, arguments: Mapping[str, Any]) -> Any:
    """Return the processor of a checkpoint.

    Args:
        source: Its hub id or folder.
        arguments: Of `from_pretrained`: where its files are, and whether its code may run.

    Raises:
        LensError: pillow is missing, or there is no processor that can be read.
    """
    check_pillow()
    known = (*FILE_ARGUMENTS, "trust_remote_code", "code_revision")
    asked = {name: arguments[name] for name in known if name in arguments}
    try:
        processor = read_processor(transformers.AutoProcessor, source, asked)
    except LensError:
        raise
    except (ImportError, ValueError) as error:  # either is raised where torchvision is missing
        processor = without_video(source, asked, error)
    except Exception as error:  # from transformers, tokenizers or the hub
        raise unreadable(source, asked, error) from error
    try:
        check_processor(processor)
    except LensError:  # transformers goes on with a tokenizer, where there is nothing else
        raise without_files(source) from None
    return processor


def unreadable(source: str, arguments: Mapping[str, Any], error: Exception) -> LensError:
    """Return the error about a processor that is not there, or cannot be read."""
    if not any(settings_of(source, file, arguments) for file in PROCESSOR_FILES):
        return without_files(source)
    return LensError(
        f"the processor of {source!r}, which images need, cannot be read. Pass one: load(…, "
        f"processor=…). The reason given is {type(error).__name__}: {one_line(str(error), 300)}"
    )


def without_files(source: str) -> LensError:
    """Return the error about a processor that is not there."""
    return LensError(
        f"{source!r} has no processor, which images need: there is no {PROCESSOR_FILES[0]} and no "
        f"{PROCESSOR_FILES[1]}. Pass one: load(…, processor=…)."
    )


def without_video(source: str, arguments: Mapping[str, Any], error: Exception) -> Any:
    """Return a processor that goes without its video processor, which would need torchvision.

    Images need none.

    Args:
        source: Hub id or folder.
        arguments: As for `processor_of_checkpoint`.
        error: What the whole processor asked for.

    Raises:
        LensError: it is of a class that cannot go without.
    """
    # It imports what greets with warnings, so it waits until a model has been loaded quietly.
    from transformers.models.auto.processing_auto import processor_class_from_name

    kind = processor_class_from_name(name_of_class(source, arguments))
    is_known = isinstance(kind, type) and issubclass(kind, transformers.ProcessorMixin)
    if not is_known or "video_processor" not in kind.get_attributes():
        raise unreadable(source, arguments, error) from error
    parts: list[Any] = []
    try:
        for name in kind.get_attributes():
            if name == "image_processor":
                parts.append(read_processor(transformers.AutoImageProcessor, source, arguments))
            elif name == "tokenizer":
                parts.append(read_tokenizer(source, arguments))
            elif name == "video_processor":
                parts.append(None)
            else:
                raise unreadable(source, arguments, error)
        settings, _ = kind.get_processor_dict(source, **arguments)
        return still_class(kind).from_args_and_dict(parts, settings)
    except (LensError, MemoryError):
        raise
    except Exception as reason:  # as above
        raise unreadable(source, arguments, reason) from reason


def name_of_class(source: str, arguments: Mapping[str, Any]) -> str:
    """Return the name of a processor's class, as the checkpoint's files say it; empty if none does.

    Where none names a class, the type of the model does.
    """
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES  # as above

    for file in (*PROCESSOR_FILES, TOKENIZER_FILE):
        settings = settings_of(source, file, arguments)
        if settings.get("processor_class"):
            return str(settings["processor_class"])
    model_type = settings_of(source, CONFIG_FILE, arguments).get("model_type")
    return str(PROCESSOR_MAPPING_NAMES.get(str(model_type), ""))


def settings_of(source: str, file: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file of a checkpoint holds; nothing where there is none.

    Raises:
        LensError: it is no JSON.
    """
    place = {name: arguments[name] for name in FILE_ARGUMENTS if name in arguments}
    path = cached_file(
        source,
        file,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **place,
    )
    settings = {} if path is None else read_settings(path)
    return settings if isinstance(settings, dict) else {}


def still_class(kind: Any) -> Any:
    """Return a class of processors that may lack its video processor."""

    class Still(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return list(kind.get_attributes())

        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            if argument is None:
                return None
            return super().check_argument_for_proper_class(name, argument)

    Still.__name__ = kind.__name__  # by which processors of one sort are known
    return Still
