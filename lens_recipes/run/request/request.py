"""`Request`: what every recipe is asked for, checked once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from nnsight.intervention.envoy import Envoy
from torch import Tensor

from lens_recipes.arrays.axes import Inputs, Site
from lens_recipes.arrays.images import ImagePlace, Picture
from lens_recipes.lenses.lens import Lens
from lens_recipes.models.handle import (
    context_length,
    exclusive,
    refuse_inside_trace,
    refuse_training,
    resolve_remote,
    tokenizer_of,
)
from lens_recipes.models.images.both_ways import TYPES
from lens_recipes.models.images.processor import stated_image_token
from lens_recipes.models.lens_head import head_operations_for
from lens_recipes.models.structure.anatomy import anatomy_of
from lens_recipes.models.structure.block.blocks import blocks_of
from lens_recipes.models.structure.known import known_model
from lens_recipes.models.structure.parts import Block
from lens_recipes.models.weights.offload import input_device, refuse_uncallable
from lens_recipes.run.request.edits.planned import PlannedEdit
from lens_recipes.run.request.encodings import IDS, EncodedPrompt, as_recorded, read_encoding
from lens_recipes.run.request.images.asked.chats import has_image_parts
from lens_recipes.run.request.images.asked.positions import image_positions
from lens_recipes.run.request.images.blocks import refuse_image_blocks
from lens_recipes.run.request.images.encoded import are_ids, read_encoded_prompts
from lens_recipes.run.request.images.prompts import read_image_prompts, refuse_text_part
from lens_recipes.run.request.prompts import (
    encode,
    refuse_empty,
    warn_of_missing_images,
    warn_of_two_beginnings,
)
from lens_recipes.run.request.read_plan import LinkReaders, plan_sites
from lens_recipes.run.request.selection import (
    as_list,
    check_ids,
    pick_positions,
    target_ids,
    warn_of_length,
)
from lens_recipes.trace.operations import Operation
from lens_recipes.trace.plan import EditStep, ReadPlan, ReadStep
from lens_recipes.trace.transport import Affine

NO_PROMPTS = object()  # in place of prompts, for a recipe that runs none


class Request:
    """A model, prompts as token ids, and the positions and targets that are read of them.

    Attributes:
        model: The nnsight model.
        remote: Where it runs: False here, "local" in nnsight's simulation of a server, or a
            server's address (True for the one that nnsight knows).
        known: What was found out about the model as it is now.
        anatomy: Where it keeps its parts.
        tokenizer: The model's, or None.
        add_special_tokens: Whether the tokenizer's own special tokens are added to texts.
        token_ids: `[prompt][position]`; empty for a recipe without prompts.
        extra_inputs: What else the model is given beside each prompt's ids, by name, `[position]`:
            position ids, token types or a mask with a hole, which a `BatchEncoding` may have.
        tensors: Of prompts with images, what else the model is given: pixels, sizes, grids. Empty
            without images, as are the next three.
        pictures: The images of each prompt.
        places: Where each token is in them, `[prompt][position]`.
        image_digests: What tells each image from any other, `[prompt][image]`.
        positions: Which of them are read, `[prompt][token]`.
        target_ids: `[prompt][target]`.
        started: When the request was made, by `time.perf_counter`.
        encode_seconds: How long it took to turn the prompts into ids.
    """

    def __init__(
        self,
        model: Envoy,
        prompts: Any = NO_PROMPTS,
        *,
        positions: Any = None,
        targets: Any = None,
        remote: bool | str | None = None,
        add_special_tokens: bool = True,
        images: Any = None,
    ) -> None:
        """Check all arguments.

        Args:
            model: What `load()` returns.
            prompts: Strings, ids or chats, one or several; left out by a recipe without prompts.
            positions: Indices for every prompt, or a list of such, one per prompt; None for all.
            targets: Tokens to follow, for all prompts or one list for each.
            remote: None as the model was loaded.
            add_special_tokens: As in the tokenizer.
            images: Of each prompt, as for `read_image_prompts`; None for none.

        Raises:
            ValueError: an argument that does not fit the model or the prompts.
            LensError: a model that cannot be read this way, or not where it is to run.
        """
        self.started = time.perf_counter()
        self.model = model
        self.remote = resolve_remote(model, remote)
        has_prompts = prompts is not NO_PROMPTS
        if has_prompts:
            refuse_training(model, self.remote)
        self.tokenizer = tokenizer_of(model)
        self.add_special_tokens = add_special_tokens
        self.token_ids: list[list[int]] = []
        self.extra_inputs: list[dict[str, list[int]]] = []
        self.tensors: list[dict[str, Tensor]] = []
        self.pictures: list[list[Picture]] = []
        self.places: list[list[ImagePlace]] = []
        self.image_digests: list[list[str]] = []
        with exclusive(model):  # a fast tokenizer is for one thread at a time, too
            refuse_inside_trace(model)
            self.known = known_model(model)
            self.anatomy = anatomy_of(model, self.known)
            vocab_size = self.anatomy.vocab_size
            encode_started = time.perf_counter()
            if has_prompts:
                self.read_prompts(as_list(prompts), add_special_tokens, images)
            self.encode_seconds = time.perf_counter() - encode_started
            check_ids(self.token_ids, self.anatomy.n_embeddings, self.anatomy.n_positions)
            warn_of_length(self.token_ids, context_length(model))
            positions = image_positions(positions, self.places, len(self.token_ids))
            self.positions = pick_positions(positions, self.token_ids)
            n_lists = len(self.token_ids) if has_prompts else 1
            self.target_ids = target_ids(targets, n_lists, self.tokenizer, vocab_size)

    def read_prompts(self, prompts: Any, add_special_tokens: bool, images: Any = None) -> None:
        """Turn the prompts into token ids.

        Raises:
            ValueError: as `encode`, `read_encoding`, `read_image_prompts` and `refuse_empty`.
            LensError: as `read_image_prompts`.
        """
        if images is not None or has_image_parts(prompts):
            self.read_image_prompts(prompts, images, add_special_tokens)
        elif isinstance(prompts, Mapping) and "input_ids" in prompts:
            encoded = read_encoding(prompts, self.anatomy.forward_options)
            self.token_ids = [prompt.token_ids for prompt in encoded]
            self.extra_inputs = [prompt.inputs for prompt in encoded]
        else:
            self.token_ids = encode(prompts, self.tokenizer, add_special_tokens=add_special_tokens)
            if add_special_tokens:
                warn_of_two_beginnings(prompts, self.token_ids, self.tokenizer)
            self.extra_inputs = [{} for _ in self.token_ids]
        if not self.places:
            warn_of_missing_images(self.token_ids, stated_image_token(self.model))
        refuse_empty(self.token_ids)
        if self.anatomy.is_prefix:  # with and without types it would be two models
            for token_ids, inputs in zip(self.token_ids, self.extra_inputs, strict=True):
                inputs.setdefault(TYPES, [0] * len(token_ids))

    def read_image_prompts(self, prompts: Any, images: Any, add_special_tokens: bool) -> None:
        """Turn prompts with images into ids, and into what the model is given beside them.

        Raises:
            ValueError, LensError: as `read_image_prompts` and `refuse_image_blocks`.
        """
        refuse_image_blocks(self.anatomy)
        taken = self.anatomy.forward_options
        if are_ids(prompts):
            found = read_encoded_prompts(self.model, prompts, images, taken)
        else:
            found = read_image_prompts(
                self.model, prompts, images, self.tokenizer, add_special_tokens=add_special_tokens
            )
        refuse_text_part(self.model, found, taken)
        self.token_ids = [prompt.token_ids for prompt in found]
        self.extra_inputs = [
            {name: row for name, row in prompt.inputs.items() if name in taken} for prompt in found
        ]
        self.tensors = [
            {name: value for name, value in prompt.tensors.items() if name in taken}
            for prompt in found
        ]
        self.pictures = [prompt.pictures for prompt in found]
        self.places = [prompt.places for prompt in found]
        self.image_digests = [prompt.digests for prompt in found]

    @property
    def recorded_images(self) -> list[list[str]] | None:
        """What tells the images of each prompt from others, as a record has them; None for none.

        Their pixels are in no record: whoever makes the request again passes the images.
        """
        return self.image_digests if any(self.image_digests) else None

    @property
    def recorded_prompts(self) -> Any:
        """The prompts as a saved job keeps them, from which the same request can be made again."""
        pairs = zip(self.token_ids, self.extra_inputs, strict=True)
        return as_recorded([EncodedPrompt(token_ids, inputs) for token_ids, inputs in pairs])

    @property
    def inputs(self) -> list[Inputs]:
        """What the model is given of each prompt, as a result keeps it."""
        pairs = zip(self.token_ids, self.extra_inputs, strict=True)
        return [{IDS: list(token_ids), **inputs} for token_ids, inputs in pairs]

    @property
    def head_operations(self) -> list[Operation]:
        """What the model does between the last block and the logits, where it runs."""
        return head_operations_for(self.model, self.anatomy, self.remote)

    @property
    def seconds(self) -> float:
        """How long ago the request was made."""
        return time.perf_counter() - self.started

    def blocks(self) -> list[Block]:
        """Return what each block adds to the stream, `[layer]`.

        Raises:
            LensError: as `residual_blocks`, or heads whose projection cannot be called by itself.
        """
        with exclusive(self.model):
            blocks = blocks_of(self.model, self.known)
        for block in blocks:
            for write in block.writes:
                if write.heads is not None and not self.remote:
                    refuse_uncallable(self.model, write.heads.to_stream)
        return blocks

    def link_readers(self, *, has_cache: bool = False) -> LinkReaders:
        """Return where a trace may read what the model goes on with after a block.

        Args:
            has_cache: Whether the model writes, and its blocks are given a cache.
        """
        if not self.remote:
            return LinkReaders.any
        return LinkReaders.lone_only if has_cache else LinkReaders.lone_first

    def sites(
        self,
        layers: Any,
        components: list[str],
        heads: Any = None,
        apply_norm: bool = True,
        has_cache: bool = False,
        lens: Lens | None = None,
        edits: Sequence[PlannedEdit] = (),
    ) -> tuple[list[Site], ReadPlan]:
        """Return the sites that were asked for, and the plan to read them with a lens.

        Edits are among its steps.

        Raises:
            ValueError, LensError: as `plan_sites`.
        """
        readers = self.link_readers(has_cache=has_cache)
        sites, plan = plan_sites(
            self.anatomy, self.blocks, layers, components, heads, apply_norm, readers, lens, edits
        )
        if lens is None or self.remote:
            return sites, plan
        device = input_device(self.model._module)
        reads = []
        for read in plan.sites:
            if isinstance(read.transport, Affine):
                read = read._replace(transport=read.transport.to(device))
            reads.append(read)
        return sites, plan._replace(sites=reads)

    def edit_steps(
        self, edits: Sequence[PlannedEdit], read_layer: int | None = None
    ) -> list[ReadStep | EditStep]:
        """Return the steps that make some edits, and those that prove them, as the model runs.

        Args:
            edits: They.
            read_layer: After which layer the stream is read, too; None for none.
        """
        layer = self.anatomy.last_layer if read_layer is None else read_layer
        _, plan = self.sites(layer, ["resid_post"], edits=edits)
        steps: list[ReadStep | EditStep] = []
        for step in plan.steps:
            is_edit = isinstance(step, EditStep) or step.at is not None
            is_asked = read_layer is not None and 0 in step.slots
            if is_edit or (is_asked and step.role != "next"):
                steps.append(step)
        return steps
