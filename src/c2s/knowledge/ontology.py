"""Cell types as terms of an ontology, such as the Cell Ontology (CL): which term is a kind of which.

Read from a file, `.obo` or `.json` (also `.gz` and `.zst`), or from the package `cellxgene-ontology-guide` (extra
`ontology`). Of the package only the file is read, not the code: its API gives ancestors one term at a time and finds
no synonyms, and its file has all that is needed, so that a graph from either source is the same. The facts that are
taken are id, name, exact synonyms, parents, and obsolete terms with what replaces them. Parents in an OBO file are its
`is_a` lines; *part of* and other relations are left out.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2s.common.errors import InputError, UsageError, listing, missing_extra, nearest, warn

if TYPE_CHECKING:
    import pandas as pd

_PACKAGE = "cellxgene_ontology_guide"
#: The address of a term in the JSON that the OBO Foundry publishes.
_ADDRESS = re.compile(r"^https?://purl\.obolibrary\.org/obo/([A-Za-z]+)_(\w+)$")
_EXACT = re.compile(r'^"((?:[^"\\]|\\.)*)"\s+EXACT\b')


@dataclass(frozen=True)
class Term:
    """A term of an ontology.

    Attributes
    ----------
    id, name
        As "CL:0000169", "type B pancreatic cell".
    parents
        Ids of the terms that it is a kind of.
    synonyms
        Exact ones only: other names of the same thing.
    obsolete, replaced_by
        Whether it is no longer to be used, and the id of what is used instead.
    """

    id: str
    name: str
    parents: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    obsolete: bool = False
    replaced_by: str | None = None


class Ontology:
    """Terms and what is a kind of what: a graph in which a term may have several parents.

    Two terms may be a kind of each other, as in the Cell Ontology of February 2025; each is then an ancestor of the
    other.

    Parameters
    ----------
    terms
        In any order. A parent that is not among them is left out.
    labels
        Names of one's own for terms: label → id, name or synonym.

    Attributes
    ----------
    terms : dict of str to Term
        By id, without obsolete ones.
    parents : dict of str to tuple of str
        Ids of the parents by id, in the form that `c2s.metrics.ontology_distance` takes.

    Raises
    ------
    InputError
        An id comes twice, or a label stands for a term that is not there, or for two.

    Examples
    --------
    >>> ontology = Ontology(
    ...     [Term("X:1", "cell"), Term("X:2", "T cell", ("X:1",), ("T lymphocyte",))], {"T": "X:2"}
    ... )
    >>> ontology.find("t-lymphocyte"), ontology.find("T"), ontology.labels_below("cell")
    ('X:2', 'X:2', ['cell', 'T cell'])
    """

    def __init__(self, terms: Iterable[Term], labels: Mapping[str, str] | None = None) -> None:
        self.terms: dict[str, Term] = {}
        self._replaced: list[Term] = []
        seen: set[str] = set()
        for term in terms:
            if term.id in seen:
                raise InputError(f"ontology: the term {term.id} comes twice")
            seen.add(term.id)
            if term.obsolete:
                self._replaced.append(term)
            else:
                self.terms[term.id] = term
        if not self.terms:
            raise InputError("ontology: holds no term")
        self.parents = {
            t.id: tuple(p for p in dict.fromkeys(t.parents) if p in self.terms)
            for t in self.terms.values()
        }
        self._own: dict[str, str] = {}
        for label, named in (labels or {}).items():
            found = self.find(named)
            if found is None:
                raise InputError(
                    f"ontology: {label!r} is said to be {named!r}, which is no term{self._hint(named)}"
                )
            if self._own.setdefault(_folded(label), found) != found:
                raise InputError(
                    f"ontology: {label!r} is said to be two terms, {self._own[_folded(label)]} and {found}; case and "
                    "dashes do not tell labels apart"
                )

    def __len__(self) -> int:
        """Return the number of terms."""
        return len(self.terms)

    def __repr__(self) -> str:
        return f"Ontology({len(self):,} terms)"

    def with_labels(self, labels: Mapping[str, str]) -> Ontology:
        """Return the same graph that also knows terms by other names: label → id, name or synonym.

        Raises
        ------
        InputError
            A label stands for a term that is not there.
        """
        own = {label: t for label, t in self._own.items() if label not in map(_folded, labels)}
        return Ontology([*self.terms.values(), *self._replaced], own | dict(labels))

    def find(self, label: str) -> str | None:
        """Return the id of the term with this id, label of one's own, name or exact synonym; None where there is none.

        Case and `_`, `-` or space do not matter. A synonym of two terms finds neither. An obsolete term finds what
        replaces it.
        """
        if label in self.terms:
            return label
        folded = _folded(label)
        return self._own.get(folded) or self._by_name.get(folded)

    def term(self, label: str) -> Term:
        """Return the term that `find` finds.

        Raises
        ------
        UsageError
            There is none; the nearest ones are named.
        """
        found = self.find(label)
        if found is None:
            raise UsageError(f"{label!r} is no term of the ontology{self._hint(label)}")
        return self.terms[found]

    def ancestors(self, term_id: str) -> frozenset[str]:
        """Return the ids of all terms that a term is a kind of, itself among them."""
        return _reached(term_id, self.parents)

    def descendants(self, term_id: str) -> frozenset[str]:
        """Return the ids of all terms that are a kind of a term, itself among them."""
        return _reached(term_id, self.children)

    @cached_property
    def children(self) -> dict[str, tuple[str, ...]]:
        """Ids of the children by id."""
        children: dict[str, list[str]] = {term: [] for term in self.terms}
        for term, parents in self.parents.items():
            for parent in parents:
                children[parent].append(term)
        return {term: tuple(found) for term, found in children.items()}

    @cached_property
    def n_below(self) -> dict[str, int]:
        """Number of terms that are a kind of each term, itself counted: the fewer, the more it says."""
        return {term: len(self.descendants(term)) for term in self.terms}

    def labels_below(self, label: str) -> list[str]:
        """Return the names of a term and of all below it, general ones first.

        Raises
        ------
        UsageError
            There is no such term.
        """
        below = self.descendants(self.term(label).id)
        order = sorted(below, key=lambda t: (len(self.ancestors(t)), self.terms[t].name, t))
        return [self.terms[term].name for term in order]

    def graph(self) -> dict[str, tuple[str, ...]]:
        """Return the parents of each term by *name*, for `c2s.metrics.ontology_distance` on labels that are names."""
        return {
            self.terms[term].name: tuple(self.terms[p].name for p in parents)
            for term, parents in self.parents.items()
        }

    @cached_property
    def _by_name(self) -> dict[str, str]:
        """Ids by folded id, name and synonym; a name comes before a synonym."""
        found: dict[str, str] = {}
        for term in self._replaced:
            if term.replaced_by in self.terms:
                name = re.sub(r"^obsolete ", "", term.name)
                found |= dict.fromkeys((_folded(term.id), _folded(name)), str(term.replaced_by))
        called: dict[str, set[str]] = {}
        for term in self.terms.values():
            for synonym in term.synonyms:
                called.setdefault(_folded(synonym), set()).add(term.id)
        found |= {synonym: min(ids) for synonym, ids in called.items() if len(ids) == 1}
        for term in self.terms.values():
            found |= {_folded(term.name): term.id, _folded(term.id): term.id}
        return found

    def _hint(self, label: str) -> str:
        close = nearest(label, [*self._own, *(term.name for term in self.terms.values())])
        return f" (nearest: {listing(close)})" if close else ""


def _reached(start: str, steps: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    found = {start}
    waiting = [start]
    while waiting:
        new = set(steps[waiting.pop()]) - found
        found |= new
        waiting += new
    return frozenset(found)


def _folded(text: str) -> str:
    return " ".join(re.sub(r"[_-]", " ", text.casefold()).split())


def roll_up(probabilities: pd.DataFrame, ontology: Ontology) -> pd.DataFrame:
    """Return the probability of every term above the labels: the sum over the labels at or below it.

    Each label is counted once however many ways lead up from it, so a term that stands above everything has
    probability 1.

    Parameters
    ----------
    probabilities : DataFrame, shape (n_cells, n_labels)
        Columns are labels, rows sum to 1: what `c2s.tl.annotate(…, probabilities_key=…)` writes.
    ontology
        Knows the labels by id, name, synonym, or as labels given with it. Those that it does not know are named
        in a warning; their probability belongs to no term.

    Returns
    -------
    DataFrame, shape (n_cells, n_terms)
        Columns are names of terms (the id where the name holds a slash, which h5ad files cannot have), those with
        the most labels below them first; a missing row stays missing.

    Raises
    ------
    InputError
        The ontology knows none of the labels.

    Examples
    --------
    >>> import pandas as pd
    >>> ontology = Ontology([Term("X:1", "cell"), Term("X:2", "T", ("X:1",)), Term("X:3", "B", ("X:1",))])
    >>> roll_up(pd.DataFrame({"T": [0.7], "B": [0.2]}), ontology).round(3).to_dict("records")
    [{'cell': 0.9, 'B': 0.2, 'T': 0.7}]
    """
    import pandas as pd

    labels = [str(label) for label in probabilities.columns]
    above = TermsAbove(labels, ontology)
    rolled = above.sums(probabilities.to_numpy(np.float64))
    return pd.DataFrame(rolled, index=probabilities.index, columns=above.columns)


class TermsAbove:
    """The terms above a list of labels, found once for sums over many cells; see `roll_up`.

    Parameters
    ----------
    labels
        Names that the ontology knows; a warning names those that it does not.
    ontology
        Terms and what is a kind of what.

    Attributes
    ----------
    terms : list of str
        Ids, those with the most labels below them first.
    columns : list of str
        Their names, as tables have them.

    Raises
    ------
    InputError
        The ontology knows none of the labels.
    """

    def __init__(self, labels: Sequence[str], ontology: Ontology) -> None:
        found = [ontology.find(label) for label in labels]
        unknown = [label for label, term in zip(labels, found, strict=True) if term is None]
        if len(unknown) == len(labels):
            raise InputError(
                f"the ontology knows none of the labels ({listing(labels, 5)}); say which terms they are, label → CL id"
            )
        if unknown:
            warn(
                f"the ontology does not know {listing(unknown, 5)}; no ancestor gets their probability"
            )
        above = [ontology.ancestors(term) if term else frozenset[str]() for term in found]
        n_labels = {t: sum(t in a for a in above) for t in frozenset[str]().union(*above)}
        self.terms = sorted(
            n_labels, key=lambda t: (-n_labels[t], -ontology.n_below[t], _column(ontology.terms[t]))
        )
        self.columns = [_column(ontology.terms[term]) for term in self.terms]
        self._counted = np.array([[t in a for t in self.terms] for a in above], dtype=np.float64)
        self._labels = list(labels)

    def by_label(self) -> dict[str, list[str]]:
        """Return for each label the columns that its probability is counted in."""
        return {
            label: [column for column, counted in zip(self.columns, row, strict=True) if counted]
            for label, row in zip(self._labels, self._counted, strict=True)
        }

    def sums(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the probability of each term for each cell from those of the labels; a missing row stays missing.

        Parameters
        ----------
        probabilities : float64 array, shape (n_cells, n_labels)

        Returns
        -------
        float64 array, shape (n_cells, n_terms)
        """
        missing = np.isnan(probabilities).any(axis=1)
        rolled = np.nan_to_num(probabilities) @ self._counted
        rolled[missing] = np.nan
        return np.asarray(rolled)


def _column(term: Term) -> str:
    return term.id if "/" in term.name else term.name


def read_ontology(
    source: str | os.PathLike[str] | None = None,
    labels: Mapping[str, str] | str | os.PathLike[str] | None = None,
) -> Ontology:
    """Read an ontology.

    Parameters
    ----------
    source
        An `.obo` file; a `.json` file as the OBO Foundry publishes it (OBO graphs) or as `cellxgene-ontology-guide`
        holds it; either may be packed as `.gz` or `.zst`. By default the newest Cell Ontology of that package.
    labels
        Labels of one's own, label → id, name or synonym of a term: a mapping, or a file with two columns
        separated by a tab. Baron's "beta" is no name of the Cell Ontology; `{"beta": "CL:0000169"}` says what it is.

    Raises
    ------
    UsageError
        No file is given and the package is not installed.
    InputError
        A file cannot be read or is not of its form.
    """
    path = _packaged() if source is None else Path(source)
    name = re.sub(r"\.(gz|zst)$", "", path.name.casefold())
    if not name.endswith((".obo", ".json")):
        raise InputError(f"{path}: is no ontology that can be read; give an .obo or a .json file")
    text = _text(path)
    terms = _obo_terms(text) if name.endswith(".obo") else _json_terms(text, path)
    own = labels if labels is None or isinstance(labels, Mapping) else read_labels(labels)
    try:
        return Ontology(terms, own)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_labels(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a table of two columns separated by a tab, label and term.

    A first line with "term", "id", "CL id" or the like in place of a term is a heading.

    Raises
    ------
    InputError
        It cannot be read, a line has not two columns, or a label comes twice.
    """
    labels: dict[str, str] = {}
    for number, line in enumerate(_text(Path(path)).splitlines(), start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 2 or not all(parts):
            raise InputError(
                f"{path}: line {number:,} ({line[:40]!r}) is not a label and a term separated by a tab"
            )
        if number == 1 and parts[1].casefold() in (
            "id",
            "term",
            "term id",
            "cl id",
            "cl",
            "ontology",
        ):
            continue
        if labels.setdefault(parts[0], parts[1]) != parts[1]:
            raise InputError(f"{path}: line {number:,} gives {parts[0]!r} another term than before")
    if not labels:
        raise InputError(f"{path}: holds no label")
    return labels


def _packaged() -> Path:
    """Return the newest Cell Ontology in the installed `cellxgene-ontology-guide`."""
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise missing_extra("no ontology file was given, and cellxgene-ontology-guide", "ontology")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    found = sorted(folder.glob("CL-ontology-v*.json.*"))  # versions are dates
    if not found:
        raise InputError(f"{folder}: holds no Cell Ontology; give an .obo or .json file")
    return found[-1]


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
        elif path.suffix == ".zst":
            import pyarrow as pa

            raw = pa.input_stream(pa.BufferReader(raw), compression="zstd").read()
        return raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def _obo_terms(text: str) -> Iterator[Term]:
    """Yield the terms of an OBO file (format 1.2 and 1.4)."""
    for stanza in re.split(r"^(?=\[)", text.replace("\r\n", "\n"), flags=re.MULTILINE):
        if not stanza.startswith("[Term]"):
            continue
        tags: dict[str, list[str]] = {}
        for line in stanza.split("\n")[1:]:
            tag, colon, value = line.partition(":")
            if colon:
                tags.setdefault(tag.strip(), []).append(value.strip())
        if "id" not in tags:
            continue
        term_id = _first_word(tags["id"][0])
        exact = [found[1] for value in tags.get("synonym", []) if (found := _EXACT.match(value))]
        replaced = tags.get("replaced_by")
        yield Term(
            term_id,
            _unescaped(tags.get("name", [term_id])[0]),
            tuple(_first_word(value) for value in tags.get("is_a", [])),
            tuple(_unescaped(synonym) for synonym in exact),
            tags.get("is_obsolete") == ["true"],
            _first_word(replaced[0]) if replaced else None,
        )


def _first_word(value: str) -> str:
    """Return an id without the comment or the qualifiers behind it."""
    return value.split()[0] if value else ""


def _unescaped(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value)


def _json_terms(text: str, path: Path) -> Iterator[Term]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    try:
        if "graphs" in content:
            return iter(list(_graph_terms(content["graphs"])))
        return iter([_guide_term(term_id, facts) for term_id, facts in content.items()])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: is neither an OBO graph nor a file of cellxgene-ontology-guide ({error!r})"
        ) from error


def _guide_term(term_id: str, facts: Mapping[str, Any]) -> Term:
    """Return a term of `cellxgene-ontology-guide`; its parents are the nearest ancestors.

    They are one step away, or more where terms of other ontologies, which its file leaves out, stand between.
    """
    above = facts["ancestors"]
    fewest = min(above.values(), default=0)
    return Term(
        term_id,
        facts["label"],
        tuple(sorted(term for term, steps in above.items() if steps == fewest)),
        tuple(facts.get("synonyms", ())),
        bool(facts.get("deprecated")),
        facts.get("replaced_by"),
    )


def _graph_terms(graphs: Iterable[Mapping[str, Any]]) -> Iterator[Term]:
    """Yield the terms of OBO graphs: nodes that are classes and have a label, and their `is_a` edges."""
    for graph in graphs:
        parents: dict[str, list[str]] = {}
        for edge in graph.get("edges", ()):
            if edge["pred"] == "is_a":
                parents.setdefault(edge["sub"], []).append(_short(edge["obj"]))
        for node in graph["nodes"]:
            if node.get("type", "CLASS") != "CLASS" or "lbl" not in node:
                continue
            meta = node.get("meta", {})
            synonyms = (
                s["val"] for s in meta.get("synonyms", ()) if s["pred"] == "hasExactSynonym"
            )
            values = meta.get("basicPropertyValues", ())
            # IAO:0100001 is "term replaced by".
            replaced = [_short(v["val"]) for v in values if v["pred"].endswith("IAO_0100001")]
            yield Term(
                _short(node["id"]), node["lbl"], tuple(parents.get(node["id"], ())), tuple(synonyms),
                bool(meta.get("deprecated")), replaced[0] if replaced else None,
            )  # fmt: skip


def _short(address: str) -> str:
    """Return "CL:0000169" for the address of that term."""
    found = _ADDRESS.match(address)
    return f"{found[1]}:{found[2]}" if found else address
