"""The peers, each used as its own documentation shows, behind one small face.

A peer is ``build(hf, family, folder)``, which returns ``forward(ids, moves, donor)``: the model run on one
prompt with some outputs replaced.  ``moves`` are ``(kind, layer, positions, donor positions or None)``;
None sets the outputs to zero, otherwise they become those of the prompt ``donor`` at the given positions.
It returns the logits [vocab] at the last position, and by (kind, layer) what the module put out there.
No code is shared with causalnet: donors' values are the peer's own as well.
"""

from functools import cache

import torch
from peers_models import nodes_of, reach

__all__ = ["PEERS"]


def with_nnsight(hf, family, _folder):
    """Tracing: read and assign ``.output`` in the order of computation."""
    import nnsight

    model, nodes = nnsight.NNsight(hf), nodes_of(hf)
    envoys = {node: reach(model, family.paths[node[0]].format(node[1])) for node in nodes}

    def hidden(node):
        # Attention modules put out a tuple; nnsight serves what the module returned.
        output = envoys[node].output
        return output[0] if isinstance(output, tuple) else output

    def donated(donor):
        with torch.no_grad(), model.trace(torch.tensor([donor])):
            values = nnsight.save({})
            for node in nodes:
                values[node] = hidden(node)[0].clone()
        return values

    def forward(ids, moves, donor):
        values = donated(donor) if donor is not None else None
        by_node = {}
        for kind, layer, positions, sources in moves:
            by_node.setdefault((kind, layer), []).append((positions, sources))
        with torch.no_grad(), model.trace(torch.tensor([ids])):
            seen = nnsight.save({})
            for node in nodes:
                for positions, sources in by_node.get(node, ()):
                    hidden(node)[:, positions] = 0.0 if sources is None else values[node][sources]
                seen[node] = hidden(node)[0, -1].clone()
            logits = model.output.logits.save()
        return logits[0, -1], dict(seen)

    return forward


def with_pyvene(hf, family, _folder):
    """Interchange interventions at unit locations; what is put out is read by collect interventions."""
    import pyvene

    # A model class that pyvene does not know is made known to it; components are then named by their paths.
    pyvene.type_to_module_mapping.setdefault(type(hf), {})
    pyvene.type_to_dimension_mapping.setdefault(type(hf), {})
    nodes = nodes_of(hf)
    named = {"attn": "attention_output", "mlp": "mlp_output"}

    def component(kind, layer):
        if not family.post_norm:
            return named[kind]
        *head, last = family.paths[kind].split(".")
        return ".".join(head).replace(".{}", f"[{layer}]") + f".{last}.output"

    @cache
    def intervenable(moves):
        places = []
        for kind, layer, positions, sources in moves:
            place = {"layer": layer, "component": component(kind, layer), "max_number_of_units": len(positions)}
            if sources is None:
                place["source_representation"] = torch.zeros(hf.config.hidden_size, dtype=hf.dtype)
            places.append(place | {"intervention_type": pyvene.VanillaIntervention})
        for kind, layer in nodes:
            collect = {"layer": layer, "component": component(kind, layer)}
            places.append(collect | {"intervention_type": pyvene.CollectIntervention})
        return pyvene.IntervenableModel(places, model=hf)

    def forward(ids, moves, donor):
        count, last = len(nodes), len(ids) - 1
        shape = tuple(
            (kind, layer, tuple(positions), sources and tuple(sources)) for kind, layer, positions, sources in moves
        )
        sources = [None if move[3] is None else {"input_ids": torch.tensor([donor])} for move in moves]
        at_source = [None if move[3] is None else [list(move[3])] for move in moves]
        at_base = [[list(move[2])] for move in moves]
        with torch.no_grad():
            (_, collected), output = intervenable(shape)(
                base={"input_ids": torch.tensor([ids])},
                sources=sources + [None] * count,
                unit_locations={"sources->base": (at_source + [None] * count, at_base + [[[last]]] * count)},
            )
        return output.logits[0, -1], {node: value.reshape(-1) for node, value in zip(nodes, collected, strict=True)}

    return forward


def with_transformer_lens(hf, family, folder):
    """Hook functions at ``hook_attn_out`` and ``hook_mlp_out``, and the activation cache."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    hf.config.architectures = [type(hf).__name__]  # as in every saved checkpoint
    # A bridge is booted with a tokenizer, whose folder it reads again; token ids are given here, never texts.
    mute = Tokenizer(WordLevel({"<s>": 0}, unk_token="<s>"))
    marks = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<s>")
    PreTrainedTokenizerFast(tokenizer_object=mute, **marks).save_pretrained(folder)
    bridge = TransformerBridge.boot_transformers(
        str(folder), hf_model=hf, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu", dtype=hf.dtype
    )
    names = {node: f"blocks.{node[1]}.hook_{node[0]}_out" for node in nodes_of(hf)}

    def patch(positions, value):
        def hook(activation, hook):
            activation[:, positions] = value
            return activation

        return hook

    def forward(ids, moves, donor):
        with torch.no_grad():
            donated = {}
            if donor is not None:
                _, donated = bridge.run_with_cache(torch.tensor([donor]), names_filter=list(names.values()))
            hooks = []
            for kind, layer, positions, sources in moves:
                name = names[kind, layer]
                value = 0.0 if sources is None else donated[name][0, list(sources)].clone()
                hooks.append((name, patch(list(positions), value)))
            with bridge.hooks(fwd_hooks=hooks):
                logits, cache = bridge.run_with_cache(torch.tensor([ids]), names_filter=list(names.values()))
        return logits[0, -1], {node: cache[name][0, -1] for node, name in names.items()}

    return forward


PEERS = {"nnsight": with_nnsight, "pyvene": with_pyvene, "transformer_lens": with_transformer_lens}
