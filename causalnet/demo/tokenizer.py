"""The word-level tokenizer of the embedded models."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from causalnet.demo.facts import World

__all__ = ["BOS", "EOS", "UNK", "build_tokenizer"]

UNK, BOS, EOS = "<unk>", "<bos>", "<eos>"


def build_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Make the tokenizer of a world: one token a word, ``<bos>`` before each text.

    Parameters
    ----------
    world : World
        The world whose words are the vocabulary.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        Unknown words become ``<unk>``. There is no pad token.
    """
    vocabulary = {word: i for i, word in enumerate((UNK, BOS, EOS, *world.vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
