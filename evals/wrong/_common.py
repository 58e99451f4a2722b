"""What wrong answers share: how they are called, and what a run of the Hugging Face model shows to hooks.

No candidate itself: the audit passes over names that begin with an underscore.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
torch.set_grad_enabled(False)


def write(**answer):
    """The answer; tensors and arrays become lists."""
    Path(out).write_text(json.dumps(answer, default=lambda numbers: numbers.tolist()))


def write_top_five(logits):
    best = logits.log_softmax(-1).topk(5)
    write(top_ids=best.indices, top_logprobs=best.values)


def hf():
    """The Hugging Face model and its tokenizer."""
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def hidden_states(model, tokenizer, prompts=None):
    """The run with all hidden states [prompt, token, width]: the embedding first, the last one normed already."""
    ids = tokenizer(prompts or asked["prompt"], return_tensors="pt", padding=bool(prompts))
    return model(**ids, output_hidden_states=True)


def attribution(**options):
    """lens_recipes' attribution of the target against its rival."""
    import lens_recipes as lr

    return lr.attribution(lr.load(folder), asked["prompt"], asked["target"], against=asked["against"], **options)


def lens(prompts=None, **options):
    """lens_recipes' lens at the last position."""
    import lens_recipes as lr

    return lr.logit_lens(lr.load(folder), prompts or asked["prompt"], positions=-1, **options)


def traced():
    """nnsight's model."""
    from nnsight import TransformersModel

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return TransformersModel(folder, task="text-generation", tokenizer=tokenizer, dispatch=True)


def traced_logits():
    """Norm and unembedding of each layer for the last token, by Llama's paths and with nothing else: [layer, vocab]."""
    model = traced()
    with model.trace(asked["prompt"]):
        rows = [model.lm_head(model.model.norm(layer.output[:, -1])) for layer in model.model.layers]
        logits = torch.cat(rows).save()
    return logits  # noqa: RET504 - nnsight saves names


def toward(model, tokenizer):
    """The direction of the target minus that of its rival: [width]."""
    rows = model.get_output_embeddings().weight
    target, against = (tokenizer(asked[name]).input_ids[0] for name in ("target", "against"))
    return rows[target] - rows[against]


def seen(model, tokenizer, modules, **options):
    """Input and output of named modules in one run, not copied, and the run itself."""
    found = {}

    def keep(name):
        def hook(_module, args, output):
            found[name] = (args[0] if args else None, output[0] if isinstance(output, tuple) else output)

        return hook

    for name, module in modules.items():
        module.register_forward_hook(keep(name))
    return found, model(**tokenizer(asked["prompt"], return_tensors="pt"), **options)


def returned(model, tokenizer, blocks, attention, norm):
    """What attention and MLP of each block return for the last token [layer, width], and the stream before the norm."""
    modules = {(name, i): getattr(b, path) for name, path in (("attention", attention), ("mlp", "mlp"))
               for i, b in enumerate(blocks)}  # fmt: skip
    found, _ = seen(model, tokenizer, {**modules, "norm": norm})
    parts = [torch.stack([found[name, i][1][0, -1] for i in range(len(blocks))]) for name in ("attention", "mlp")]
    return *parts, found["norm"][0][0, -1]


def write_layer_norm_shares(attention):
    """What modules under `transformer.h` return, as it was kept, through a frozen LayerNorm."""
    model, tokenizer = hf()
    norm = model.transformer.ln_f
    *parts, stream = returned(model, tokenizer, model.transformer.h, attention, norm)
    scale = norm.weight / (stream.var(unbiased=False) + norm.eps).sqrt() * toward(model, tokenizer)
    shares = [(rows - rows.mean(-1, keepdim=True)) @ scale for rows in parts]
    write(attention=shares[0], mlp=shares[1])


def rms_frozen(norm, at):
    return norm.weight / (at.pow(2).mean() + norm.variance_epsilon).sqrt()


def gemma_frozen(norm, at):
    """What the norm multiplies by when it is held as it is at `at` [width]."""
    return (1 + norm.weight) / (at.pow(2).mean() + norm.eps).sqrt()


def head_shares(pieces, through):
    """Gemma 3: shares [layer, piece] of o_proj's input cut into pieces; `through` (layer, written, whole) as added."""
    model, tokenizer = hf()
    layers, norm, direction = model.model.layers, model.model.norm, toward(model, tokenizer)
    modules = {i: layer.self_attn.o_proj for i, layer in enumerate(layers)}
    found, _ = seen(model, tokenizer, {**modules, "norm": norm})
    scale, shares = gemma_frozen(norm, found["norm"][0][0, -1]), []
    for i, layer in enumerate(layers):
        rows = layer.self_attn.o_proj.weight.unflatten(1, (pieces, -1))
        written = torch.einsum("hd,whd->hw", found[i][0][0, -1].unflatten(0, (pieces, -1)), rows)
        shares.append(through(layer, written, found[i][1][0, -1]) * scale @ direction)
    return torch.stack(shares)
