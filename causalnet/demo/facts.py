"""The closed world: subjects, facts, sentences, and what is held out of training.

The world is made from a seed by the standard library alone, so it is the same
everywhere. Subjects have two invented words for a name; each word is shared by many
subjects with many different answers, so neither word alone tells the answer, and nothing
outside the world can. Answers are single words.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from causalnet.demo.phrasings import KINDS, RELATIONS, Phrasing, Relation

__all__ = ["SEED", "Fact", "Statement", "World", "build_world"]

SEED = 20260

_SUBJECTS_PER_KIND = 520
_WORDS_PER_PLACE = 28
_HELD_OUT_SHARE = 0.4

# Common words, all starting with a consonant so that "a" fits before them.
_COMMON_POOLS = {
    "profession": (
        "baker barber blacksmith brewer builder butcher carpenter chemist clerk cobbler cook "
        "dentist doctor farmer fisher gardener glazier hunter judge lawyer mason miller miner "
        "nurse painter pilot plumber potter sailor tailor"
    ),
    "instrument": (
        "banjo bassoon bell bugle cello clarinet cornet drum dulcimer fiddle flute gong guitar "
        "harmonica harp harpsichord horn kettledrum lute lyre mandolin piano recorder saxophone "
        "tambourine trombone trumpet tuba violin zither"
    ),
    "product": (
        "barley bricks butter candles carpets cheese cider clocks coal coffee copper cotton fur "
        "glass gold honey iron leather linen marble paper pepper salt silk silver soap sugar tea "
        "timber wool"
    ),
    "genre": (
        "ballad biography chronicle comedy confession diary drama fable farce hymn legend lexicon "
        "memoir mystery novel novella parable parody poem prophecy romance saga satire sermon "
        "sonnet thriller tragedy travelogue treatise western"
    ),
    "animal": (
        "badger bear beaver buffalo camel cat crane crow deer dog dolphin dragon falcon fox goat "
        "hare hawk horse lion lizard panther peacock raven salmon seal snake stork tiger whale wolf"
    ),
}
# Invented pools: how many words, and the endings that mark them.
_INVENTED_POOLS = {
    "country": (30, ("onia", "avia", "estan", "umar")),
    "river": (30, ("ene", "ira", "ush", "ol")),
    "language": (30, ("ese", "ish", "ic", "ari")),
}
_NAME_ENDINGS = {
    "person": (("a", "o", "en", "is"), ("son", "ovic", "mann", "etti")),
    "city": (("al", "or", "um", "ys"), ("burg", "haven", "ford", "stad")),
    "work": (("ine", "ane", "ode", "yra"), ("thel", "quor", "vael", "mion")),
    "organisation": (("ex", "on", "ix", "ax"), ("corp", "tek", "werk", "dyne")),
}
_ONSETS = ("b", "br", "d", "dr", "f", "fl", "g", "gr", "h", "k", "kl", "l", "m", "n", "p", "pr", "r", "s", "sk")
_ONSETS += ("t", "tr", "v", "z")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("l", "m", "n", "r", "s", "t")


@dataclass(frozen=True, slots=True)
class Fact:
    """A subject, a relation and its answer.

    Attributes
    ----------
    subject : str
        Two words.
    relation : Relation
        The relation.
    answer : str
        One word.
    held_out : str or None
        The name of the answer-last phrasing that is kept out of training, if any.
    """

    subject: str
    relation: Relation
    answer: str
    held_out: str | None


@dataclass(frozen=True, slots=True)
class Statement:
    """A fact stated in one phrasing.

    Attributes
    ----------
    fact : Fact
        The fact.
    phrasing : Phrasing
        How it is stated.
    """

    fact: Fact
    phrasing: Phrasing

    @property
    def sentence(self) -> str:
        """The whole sentence."""
        return self.phrasing.sentence(self.fact.subject, self.fact.answer)

    @property
    def prompt(self) -> str:
        """The sentence up to its answer, for answer-last phrasings."""
        return self.phrasing.prompt(self.fact.subject)

    @property
    def held_out(self) -> bool:
        """Whether training never sees it."""
        return self.phrasing.name == self.fact.held_out


@dataclass(frozen=True, slots=True)
class World:
    """All facts, in a fixed order.

    Attributes
    ----------
    seed : int
        The seed it was made from.
    facts : tuple of Fact
        The facts.
    """

    seed: int
    facts: tuple[Fact, ...]

    def statements(self) -> Iterator[Statement]:
        """Yield every fact in every phrasing of its relation."""
        for fact in self.facts:
            for phrasing in fact.relation.phrasings:
                yield Statement(fact, phrasing)

    def training(self) -> tuple[Statement, ...]:
        """Return the statements that training sees."""
        return tuple(s for s in self.statements() if not s.held_out)

    def held_out(self) -> tuple[Statement, ...]:
        """Return the statements that training never sees; all end in their answers."""
        return tuple(s for s in self.statements() if s.held_out)

    def vocabulary(self) -> tuple[str, ...]:
        """Return every word of every sentence, once, in alphabetical order."""
        words = {word for statement in self.statements() for word in statement.sentence.split()}
        return tuple(sorted(words))


def build_world(
    seed: int = SEED,
    *,
    subjects_per_kind: int = _SUBJECTS_PER_KIND,
    held_out_share: float = _HELD_OUT_SHARE,
) -> World:
    """Make the world of a seed.

    Parameters
    ----------
    seed : int
        The same seed gives the same world on every machine.
    subjects_per_kind : int
        How many subjects of each of the four kinds, at most 784.
    held_out_share : float
        The share of subjects for which one answer-last phrasing of each of their facts,
        drawn at random, is kept out of training.

    Returns
    -------
    World
        The facts, every subject with every relation of its kind. Within a relation all
        answers are equally frequent, up to one.

    Raises
    ------
    ValueError
        If a number is out of its range.

    Examples
    --------
    >>> world = build_world(subjects_per_kind=10)
    >>> len(world.facts)
    100
    >>> world.facts[0].relation.name
    'birth_country'
    """
    if not 1 <= subjects_per_kind <= _WORDS_PER_PLACE**2:
        raise ValueError(f"subjects_per_kind must be in 1..{_WORDS_PER_PLACE**2}, not {subjects_per_kind}")
    if not 0.0 <= held_out_share <= 1.0:
        raise ValueError(f"held_out_share must be between 0 and 1, not {held_out_share}")
    rng = random.Random(seed)
    taken = {word for pool in _COMMON_POOLS.values() for word in pool.split()}
    pools = {name: tuple(words.split()) for name, words in _COMMON_POOLS.items()}
    for name, (size, endings) in _INVENTED_POOLS.items():
        pools[name] = _invent(rng, size, endings, taken)
    facts: list[Fact] = []
    for kind in KINDS:
        subjects = _name_subjects(rng, kind, subjects_per_kind, taken)
        partly_held_out = set(rng.sample(subjects, round(held_out_share * len(subjects))))
        relations = [relation for relation in RELATIONS if relation.kind == kind]
        answers = {r.name: _deal(rng, pools[r.pool], len(subjects)) for r in relations}
        for i, subject in enumerate(subjects):
            for relation in relations:
                last = [p.name for p in relation.phrasings if p.answer_last]
                held_out = rng.choice(last) if subject in partly_held_out else None
                facts.append(Fact(subject, relation, answers[relation.name][i], held_out))
    return World(seed, tuple(facts))


def _invent(rng: random.Random, size: int, endings: tuple[str, ...], taken: set[str]) -> tuple[str, ...]:
    """Make capitalised words that are not taken yet, with the endings in turn."""
    words: list[str] = []
    while len(words) < size:
        stem = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        word = (stem + endings[len(words) % len(endings)]).capitalize()
        if word not in taken:
            taken.add(word)
            words.append(word)
    return tuple(words)


def _name_subjects(rng: random.Random, kind: str, size: int, taken: set[str]) -> list[str]:
    """Pair the two places' words at random, every pair at most once."""
    first, second = (_invent(rng, _WORDS_PER_PLACE, ends, taken) for ends in _NAME_ENDINGS[kind])
    return rng.sample([f"{one} {two}" for one in first for two in second], size)


def _deal(rng: random.Random, pool: tuple[str, ...], size: int) -> list[str]:
    """Deal answers so that all are equally frequent, in random order."""
    dealt = [pool[i % len(pool)] for i in range(size)]
    rng.shuffle(dealt)
    return dealt
