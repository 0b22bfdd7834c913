"""The snippets of "Coming from elsewhere" that need another library: run by ``make test-peers``, where they are."""

import importlib.util
import re
import warnings

import numpy as np
import pytest
from docs_reading import DOCS, blocks

from causalnet.effects.statistics import FewPromptsWarning

BLOCKS = blocks(DOCS / "coming_from.md")
PEERS = {"transformer_lens": "bridge", "nnsight": "nnsight", "pyvene": "pyvene"}


def test_there_is_one_snippet_for_each():
    for word in PEERS.values():
        assert len([one for one in BLOCKS if one.not_run and re.search(rf"\b{word}\b", one.text)]) == 1


@pytest.mark.parametrize("peer", list(PEERS))
def test_a_peer_gives_the_same_numbers(peer, tmp_path, capsys):
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed here; make test-peers runs this in an environment of its own")
    space = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewPromptsWarning)
        for block in BLOCKS[:2]:
            exec(block.text, space)
    if peer == "transformer_lens":
        space["bridge"] = bridge(space["network"], tmp_path)
    (snippet,) = (one for one in BLOCKS if one.not_run and re.search(rf"\b{PEERS[peer]}\b", one.text))
    # nnsight reads the source of what it traces, so the snippet has to lie in a file.
    source = tmp_path / "snippet.py"
    source.write_text(snippet.text, encoding="utf-8")
    exec(compile(snippet.text, str(source), "exec"), space)
    clean, moved = (space[name].detach() for name in ("clean", "moved"))
    target = clean.argmax(-1, keepdim=True)
    values = [(one - one.mean(-1, keepdim=True)).gather(1, target)[:, 0].numpy() for one in (moved, clean)]
    np.testing.assert_allclose(values[0] - values[1], space["effect"], atol=1e-5)


def bridge(network, folder):
    """Return TransformerLens' bridge around the network; it wants a tokenizer, which is never asked."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    network.config.architectures = [type(network).__name__]
    marks = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<s>")
    mute = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<s>": 0}, unk_token="<s>")), **marks)
    mute.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return TransformerBridge.boot_transformers(str(folder), hf_model=network, tokenizer=tokenizer, device="cpu")
