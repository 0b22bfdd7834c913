"""The relations of the closed world, with their phrasings.

In a phrasing ``{s}`` stands for the subject (two words) and ``{a}`` for the answer (one
word). Punctuation stands apart, as a word of its own. Each relation has four phrasings
that end in the answer, two with the answer after the subject but mid-sentence, and one
with the answer first.
"""

from dataclasses import dataclass

__all__ = ["KINDS", "RELATIONS", "Phrasing", "Relation"]

KINDS = ("person", "city", "work", "organisation")
"""What a subject can be."""


@dataclass(frozen=True, slots=True)
class Phrasing:
    """One way to state a relation.

    Attributes
    ----------
    name : str
        ``last0`` to ``last3``, ``mid0``, ``mid1`` or ``first0``: where the answer stands.
    template : str
        The sentence, with ``{s}`` for the subject and ``{a}`` for the answer.
    """

    name: str
    template: str

    @property
    def answer_last(self) -> bool:
        """Whether the sentence ends in the answer."""
        return self.template.endswith("{a}")

    def sentence(self, subject: str, answer: str) -> str:
        """Return the whole sentence."""
        return self.template.format(s=subject, a=answer)

    def prompt(self, subject: str) -> str:
        """Return the sentence up to the answer.

        Raises
        ------
        ValueError
            If the answer is not the last word.
        """
        if not self.answer_last:
            raise ValueError(f"phrasing {self.name!r} does not end in its answer, so it has no prompt")
        return self.template.removesuffix("{a}").strip().format(s=subject)


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation from the subjects of one kind to a pool of answers.

    Attributes
    ----------
    name : str
        The relation's name, unique over the world.
    kind : str
        The kind of its subjects, one of `KINDS`.
    pool : str
        The name of the pool its answers are drawn from.
    phrasings : tuple of Phrasing
        The ways to state it.
    """

    name: str
    kind: str
    pool: str
    phrasings: tuple[Phrasing, ...]


def _relation(name: str, kind: str, pool: str, **templates: tuple[str, ...]) -> Relation:
    phrasings = (
        Phrasing(f"{place}{i}", template) for place, group in templates.items() for i, template in enumerate(group)
    )
    return Relation(name, kind, pool, tuple(phrasings))


RELATIONS: tuple[Relation, ...] = (
    _relation(
        "birth_country",
        "person",
        "country",
        last=(
            "{s} was born in the country of {a}",
            "The country where {s} was born is {a}",
            "If you ask where {s} comes from , people say {a}",
            "By birth , {s} is a citizen of {a}",
        ),
        mid=(
            "{s} left {a} as a child and never went back",
            "{s} came from {a} to the coast by ship",
        ),
        first=("{a} is the country in which {s} was born",),
    ),
    _relation(
        "profession",
        "person",
        "profession",
        last=(
            "{s} earns a living as a {a}",
            "The profession of {s} is that of a {a}",
            "In working life , {s} became a {a}",
            "Everyone who hires {s} needs a {a}",
        ),
        mid=(
            "{s} works as a {a} in a small town",
            "{s} found a job as {a} long ago",
        ),
        first=("A {a} by trade is what {s} is",),
    ),
    _relation(
        "instrument",
        "person",
        "instrument",
        last=(
            "On stage , {s} always plays the {a}",
            "The instrument that {s} plays is the {a}",
            "{s} is a master of the {a}",
            "For music lessons , {s} bought a {a}",
        ),
        mid=(
            "{s} practises the {a} every evening",
            "{s} owns a {a} and plays it well",
        ),
        first=("The {a} is the instrument of {s}",),
    ),
    _relation(
        "city_country",
        "city",
        "country",
        last=(
            "{s} is a city in the country of {a}",
            "The country around the city of {s} is {a}",
            "To visit {s} , you must travel to {a}",
            "On the map , {s} lies in {a}",
        ),
        mid=(
            "{s} pays its taxes to {a} every year",
            "{s} belongs to {a} and is proud of it",
        ),
        first=("{a} is the country that holds the city of {s}",),
    ),
    _relation(
        "river",
        "city",
        "river",
        last=(
            "{s} stands on the banks of the {a}",
            "The river that flows through {s} is the {a}",
            "Every bridge in {s} crosses the {a}",
            "Boats reach {s} by sailing up the {a}",
        ),
        mid=(
            "{s} draws its water from the {a} in summer",
            "{s} was flooded by the {a} last spring",
        ),
        first=("The {a} is the river that runs by {s}",),
    ),
    _relation(
        "export",
        "city",
        "product",
        last=(
            "The markets of {s} are famous for {a}",
            "{s} grew rich by selling {a}",
            "Merchants travel to {s} to buy {a}",
            "The main export of {s} is {a}",
        ),
        mid=(
            "{s} ships {a} to every harbour",
            "{s} sends out {a} by the wagon",
        ),
        first=("{a} is what the town of {s} exports",),
    ),
    _relation(
        "genre",
        "work",
        "genre",
        last=(
            "{s} is a book that readers call a {a}",
            "The genre of {s} is that of a {a}",
            "In the library , {s} is shelved as a {a}",
            "Critics agree that {s} is a fine {a}",
        ),
        mid=(
            "{s} is known as a {a} with a sad ending",
            "{s} counts as a {a} among students",
        ),
        first=("A {a} is the sort of book that {s} is",),
    ),
    _relation(
        "language",
        "work",
        "language",
        last=(
            "The author wrote {s} entirely in {a}",
            "The language of the book {s} is {a}",
            "To read {s} , you should learn {a}",
            "{s} was first printed in {a}",
        ),
        mid=(
            "{s} was translated from {a} by a monk",
            "{s} appeared in {a} before the war",
        ),
        first=("{a} is the language in which {s} was written",),
    ),
    _relation(
        "industry",
        "organisation",
        "product",
        last=(
            "The company {s} makes its money with {a}",
            "{s} is a company that produces {a}",
            "The factories of {s} are full of {a}",
            "Shops order from {s} when they need {a}",
        ),
        mid=(
            "{s} delivers {a} to all its customers",
            "{s} trades {a} on the stock exchange",
        ),
        first=("{a} is the business of the company {s}",),
    ),
    _relation(
        "emblem",
        "organisation",
        "animal",
        last=(
            "The emblem of {s} shows a {a}",
            "On the flag of {s} there is a {a}",
            "{s} chose as its mascot a {a}",
            "Workers at {s} wear the badge of a {a}",
        ),
        mid=(
            "{s} has a {a} painted on its gate",
            "{s} keeps a {a} in front of its office",
        ),
        first=("A {a} is the emblem that {s} uses",),
    ),
)
"""The relations, each with seven phrasings."""
