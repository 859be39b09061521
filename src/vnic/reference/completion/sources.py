"""What may stand for an argument of a verb: by the verb and the argument, else by its metavar.

A new argument with a metavar that is in none of the tables fails a test that names it. What takes much along is
imported late: a key was pressed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from vnic.cli import fault, link_filter, log
from vnic.lab.bench import MEASURES
from vnic.reference.completion import running
from vnic.reference.completion.candidates import FILES, NONE, Candidate, Candidates, of


@dataclass(slots=True)
class Place:
    """Where in a command line the word is: the form, and what was given before it."""

    form: str
    prefix: str
    given: list[str] = field(default_factory=list)
    """The words that are no options, behind the form's own."""
    name: str | None = None
    """-n."""
    qmp: str | None = None

    def query(self, command: str) -> list[dict[str, object]]:
        return running.query(command, self.name, self.qmp)


Source = Callable[[Place], Candidates]


def links(place: Place, type_: str | None = None) -> Candidates:
    """The names of NICs and netdevs, with how each link is."""
    found = [each for each in place.query("query-links") if type_ in (None, each.get("type"))]
    return Candidates(
        [Candidate(str(each.get("name")), f"{each.get('model')}, {each.get('link')}") for each in found]
    )


def _filters(place: Place) -> Candidates:
    """Those of `vnic link show`, or the values of the one before."""
    last = place.given[-1] if place.given else ""
    if link_filter.VALUES.get(last):
        return of(link_filter.VALUES[last])
    if last == "model":
        return of(str(each["model"]) for each in place.query("query-links") if "model" in each)
    if last == "dev":
        return links(place)
    words = [Candidate(word, text) for word, text in _filter_words()]
    kinds = [Candidate(kind) for kind in link_filter.KINDS] if last == "held" else []
    return Candidates([*kinds, *words, *links(place).words])


def _filter_words() -> Iterable[tuple[str, str]]:
    texts = {part.split()[0]: text for words, text in link_filter.FILTERS for part in words.split(", ")}
    return ((word, texts[word]) for word in link_filter.WORDS)


def _fault_words(place: Place) -> Candidates:
    """Behind the NAME: a shape, then its value."""
    words = place.given[1:]
    if not words:
        return of([*fault.SHAPES, "clear", "show"])
    after = {
        "one-way": ["tx", "rx"],
        "clear": [*fault.SHAPES],
        "dampened": ["half-life=", "suppress=", "reuse=", "max="],
    }
    found = of(after.get(words[-1], ()))
    found.open_end = words[-1] == "dampened"
    return found


def _fault_name(place: Place) -> Candidates:
    found = links(place)
    return Candidates([*found.words, Candidate("show", "all faults")])


def _hmp(place: Place) -> Candidates:
    if place.given:
        return links(place)
    from vnic.monitor.hmp import help_text as hmp_help

    lines = [line.partition(" -- ") for line in hmp_help([]).splitlines()]
    return Candidates(
        [Candidate(head.split()[0].partition("|")[0], text) for head, _, text in lines if head.strip()]
    )


def _labs(place: Place) -> Candidates:
    """Running labs, and files."""
    from vnic.lab.live import place as labs

    return Candidates([Candidate(each.name) for each in labs.running()], files=True)


def _nodes(place: Place) -> Candidates:
    """The nodes of the only lab that runs."""
    from vnic.lab.live import place as labs

    running_labs = labs.running()
    record = running_labs[0].read() if len(running_labs) == 1 else None
    if record is None:
        return NONE
    return Candidates([Candidate(name, node.kind) for name, node in record.lab.nodes.items()])


def _ids(command: str) -> Source:
    return lambda place: Candidates(
        [Candidate(str(each.get("id")), str(each.get("name", ""))) for each in place.query(command)]
    )


def _options(option: str) -> Source:
    def found(place: Place) -> Candidates:
        from vnic.reference.completion.option_strings import option_string

        return option_string(option, place.prefix)

    return found


def _distributions(_: Place) -> Candidates:
    from vnic.net.netem.words import DISTRIBUTIONS

    return of(DISTRIBUTIONS)


def _of_tunnels(place: Place) -> Candidates:
    return of(str(each.get("name")) for each in place.query("query-tunnels"))


def _nothing(place: Place) -> Candidates:
    return NONE


BY_FORM: Final[dict[tuple[str, str], Source]] = {
    ("link fault", "link"): _fault_name,
    ("link fault", "words"): _fault_words,
    ("link impair", "distribution"): _distributions,
    ("link show", "words"): _filters,
    ("top", "words"): _filters,
    ("tunnel", "tunnel"): _of_tunnels,
    ("stop", "instance"): lambda _: of(running.instances()),
    ("upgrade", "instance"): lambda _: of(running.instances()),
    ("flap", "stop"): _ids("query-flaps"),
    ("netdev add", "options"): _options("netdev"),
    ("netdev del", "id"): lambda place: links(place, "netdev"),
    ("device add", "options"): _options("device"),
    ("device del", "id"): lambda place: links(place, "nic"),
    ("bench", "measure"): lambda _: Candidates(
        [Candidate(name, text) for name, (_, text) in MEASURES.items()]
    ),
    ("guest", "socket"): lambda _: FILES,
    ("guest", "address"): _nothing,
    ("rehearse", "fail"): _nodes,
    ("rehearse", "between"): _nodes,
    ("bench", "rounds"): _nothing,
    ("lab exec", "command"): _nothing,
    ("completion words", "line"): _nothing,
    ("completion words", "breaks"): _nothing,
}
"""By the form and the name of the argument."""

BY_METAVAR: Final[dict[str, Source]] = {
    "NAME": links,
    "INSTANCE": lambda _: of(running.instances()),
    "KIND": lambda _: of(log.CAUSES),
    "COMMAND": _hmp,
    "LAB": _labs,
    "NODE": _nodes,
    **dict.fromkeys(("PATH", "FILE", "OUT", "PROGRAM", "SOCKET", "FOLDER"), lambda _: FILES),
    **dict.fromkeys(
        ("TIME", "SECONDS", "N", "S", "PERCENT", "RATE", "BYTES", "ID", "VM", "URI", "COLUMN", "[HOST:]PORT"),
        _nothing,
    ),
}
"""By the metavar; those at the end are for the user to make up."""


def source_of(form: str, dest: str, metavar: str | None) -> Source | None:
    """None: an argument that is in no table."""
    return BY_FORM.get((form, dest)) or BY_METAVAR.get(metavar or "")
