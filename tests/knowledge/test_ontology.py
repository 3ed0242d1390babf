"""A graph of cell types: read from every form alike, asked by any name, probabilities summed over it once each."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.errors import C2SWarning, InputError, UsageError
from c2s.knowledge.ontology import Ontology, Term, read_labels, read_ontology, roll_up
from c2s.metrics import ontology_distance

EXCERPT = Path(__file__).parent / "data" / "cl_excerpt.obo"


@pytest.fixture(scope="module")
def cl():
    """Terms above sixteen types of pancreas and blood, from the Cell Ontology."""
    return read_ontology(EXCERPT)


@pytest.fixture
def diamond():
    """`nk T` is a kind of two things that are both kinds of lymphocyte."""
    return Ontology(
        [
            Term("X:3", "T cell", ("X:2",), ("T lymphocyte",)),
            Term("X:5", "nk T", ("X:3", "X:4")),
            Term("X:1", "cell"),
            Term("X:4", "innate cell", ("X:2",)),
            Term("X:2", "lymphocyte", ("X:1", "Y:9")),
            Term("X:6", "columnar/cuboidal", ("X:1",)),
            Term("X:7", "obsolete lymph cell", obsolete=True, replaced_by="X:2"),
            Term("X:8", "obsolete nothing", obsolete=True),
        ]
    )


class TestGraph:
    def test_of_the_cell_ontology(self, cl):
        beta = cl.find("pancreatic beta cell")
        assert (beta, cl.terms[beta].name) == ("CL:0000169", "type B pancreatic cell")
        names = {cl.terms[t].name for t in cl.ancestors(beta)}
        assert {"cell", "secretory cell", "endocrine cell", "type B pancreatic cell"} < names
        assert "lymphocyte" not in names
        assert set(cl.labels_below("CL:0000542")) == {
            *("lymphocyte", "T cell", "B cell", "mature T cell", "alpha-beta T cell"),
            *("mature alpha-beta T cell", "lymphocyte of B lineage", "mature B cell"),
            *("CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell"),
        } & {t.name for t in cl.terms.values()}
        assert cl.labels_below("lymphocyte")[0] == "lymphocyte"

    def test_ancestors_and_descendants_mirror_each_other(self, cl):
        for term in cl.terms:
            assert term in cl.ancestors(term)
            assert all(term in cl.descendants(above) for above in cl.ancestors(term))
            assert cl.n_below[term] == sum(term in cl.ancestors(other) for other in cl.terms)

    def test_by_hand(self, diamond):
        assert diamond.ancestors("X:5") == {"X:1", "X:2", "X:3", "X:4", "X:5"}
        assert diamond.descendants("X:2") == {"X:2", "X:3", "X:4", "X:5"}
        assert diamond.labels_below("lymphocyte") == ["lymphocyte", "T cell", "innate cell", "nk T"]
        assert diamond.parents["X:2"] == ("X:1",)  # Y:9 is not there
        assert len(diamond) == 6

    def test_terms_that_are_kinds_of_each_other(self):
        """As two are in the Cell Ontology of February 2025."""
        both = Ontology([Term("X:1", "a", ("X:2",)), Term("X:2", "b", ("X:1",))])
        assert both.ancestors("X:1") == both.descendants("X:1") == {"X:1", "X:2"}
        assert both.labels_below("b") == ["a", "b"]

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("X:3", "X:3"),
            ("x:3", "X:3"),
            ("t_cell", "X:3"),
            ("T-Lymphocyte", "X:3"),
            ("X:7", "X:2"),
            ("lymph cell", "X:2"),
            ("nothing", None),
            ("X:8", None),
            ("cells", None),
        ],
    )
    def test_is_asked_by_any_name(self, diamond, name, found):
        assert diamond.find(name) == found

    def test_a_name_comes_before_a_synonym_and_one_of_two_terms_finds_neither(self):
        terms = [Term("X:1", "a", (), ("b", "c")), Term("X:2", "b", (), ("c",))]
        ontology = Ontology(terms)
        assert ontology.find("b") == "X:2"
        assert ontology.find("c") is None

    def test_labels_of_ones_own_come_first(self, diamond):
        own = diamond.with_labels({"T": "t cell", "innate cell": "X:3"})
        assert (own.find("t"), own.find("Innate_cell"), diamond.find("T")) == ("X:3", "X:3", None)
        again = own.with_labels({"t": "X:4"})
        assert (again.find("T"), again.find("innate cell")) == ("X:4", "X:3")
        with pytest.raises(InputError, match="'T' is said to be 'T cel', which is no term.*T cell"):
            diamond.with_labels({"T": "T cel"})

    def test_an_unknown_term_is_answered_with_the_nearest(self, diamond):
        with pytest.raises(UsageError, match="'limphocyte' is no term.*nearest: lymphocyte"):
            diamond.labels_below("limphocyte")

    def test_is_the_graph_that_the_metric_takes(self, diamond, cl):
        assert ontology_distance(["X:3", "X:5"], ["X:4", "X:2"], diamond.parents).tolist() == [2, 2]
        truth, found = ["pancreatic A cell"] * 2, ["pancreatic D cell", "pancreatic A cell"]
        assert ontology_distance(truth, found, cl.graph()).tolist() == [2, 0]

    def test_a_label_of_ones_own_for_two_terms(self, diamond):
        with pytest.raises(InputError, match="'t_x' is said to be two terms, X:3 and X:4"):
            diamond.with_labels({"T x": "X:3", "t_x": "X:4"})
        assert diamond.with_labels({"T x": "X:3", "t_x": "T cell"}).find("t-x") == "X:3"

    def test_an_id_twice(self):
        with pytest.raises(InputError, match="X:1 comes twice"):
            Ontology([Term("X:1", "a"), Term("X:1", "b")])


class TestRollUp:
    def test_by_hand_over_a_diamond(self, diamond):
        p = pd.DataFrame(
            {"nk T": [0.5, 0.125], "T cell": [0.25, 0.5], "columnar/cuboidal": [0.25, 0.375]},
            index=["i", "j"],
        )
        found = roll_up(p, diamond)
        assert list(found.index) == ["i", "j"]
        assert found.to_dict("list") == {
            "cell": [1.0, 1.0],
            "lymphocyte": [0.75, 0.625],  # nk T once, though two ways lead up from it
            "T cell": [0.75, 0.625],
            "innate cell": [0.5, 0.125],
            "nk T": [0.5, 0.125],
            "X:6": [0.25, 0.375],
        }
        assert list(found.columns)[:3] == ["cell", "lymphocyte", "T cell"]

    def test_labels_of_ones_own_on_the_cell_ontology(self, cl):
        own = cl.with_labels({"beta": "CL:0000169", "alpha": "CL:0000171", "acinar": "CL:0002064"})
        p = pd.DataFrame({"beta": [0.5], "alpha": [0.25], "acinar": [0.125], "T cell": [0.125]})
        found = roll_up(p, own).iloc[0]
        assert found["cell"] == 1
        assert found["pancreatic endocrine cell"] == 0.75
        assert found["epithelial cell of pancreas"] == 0.875
        assert found["lymphocyte"] == 0.125

    def test_two_labels_of_one_term_are_added(self, diamond):
        p = pd.DataFrame({"T cell": [0.25], "T lymphocyte": [0.5]})
        assert roll_up(p, diamond)["T cell"].tolist() == [0.75]

    def test_missing_rows_and_unknown_labels(self, diamond):
        p = pd.DataFrame({"T cell": [0.25, np.nan], "what": [0.75, np.nan]})
        with pytest.warns(C2SWarning, match="does not know what"):
            found = roll_up(p, diamond)
        assert found["cell"].iloc[0] == 0.25
        assert found.iloc[1].isna().all()
        with pytest.raises(InputError, match="knows none of the labels"):
            roll_up(p[["what"]], diamond)

    @given(st.data())
    def test_is_the_sum_over_what_lies_below(self, data):
        """Against a walk down from each term, on random graphs."""
        n = data.draw(st.integers(1, 8))
        above = [data.draw(st.sets(st.integers(0, i - 1))) if i else set() for i in range(n)]
        ontology = Ontology(
            [Term(f"X:{i}", f"n{i}", tuple(f"X:{j}" for j in above[i])) for i in range(n)]
        )
        labels = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
        p = pd.DataFrame({f"n{i}": [1 / 2 ** (i + 1)] for i in labels})
        found = roll_up(p, ontology).iloc[0]

        def below(term):
            return {term}.union(*(below(i) for i in range(n) if term in above[i]))

        for term in range(n):
            wanted = sum(1 / 2 ** (i + 1) for i in labels if i in below(term))
            assert found.get(f"n{term}", 0.0) == pytest.approx(wanted)


OBO = """format-version: 1.2

[Term]
id: X:1
name: cell

[Term]
id: X:2 ! a comment
name: T\\, cell
synonym: "T \\"lymphocyte\\"" EXACT [PMID:1]
synonym: "thymus thing" RELATED []
is_a: X:1 {source="me"} ! cell
relationship: part_of X:4

[Term]
id: X:3
name: obsolete old T
is_obsolete: true
replaced_by: X:2

[Typedef]
id: part_of
name: part of
"""
WANTED = {
    "X:1": Term("X:1", "cell"),
    "X:2": Term("X:2", "T, cell", ("X:1",), ('T "lymphocyte"',)),
}
GUIDE = {
    "X:1": {"ancestors": {}, "label": "cell", "deprecated": False},
    "X:2": {"ancestors": {"X:1": 2}, "label": "T, cell", "synonyms": ['T "lymphocyte"'], "deprecated": False},
    "X:3": {"ancestors": {}, "label": "obsolete old T", "deprecated": True, "replaced_by": "X:2"},
}  # fmt: skip
BASE = "http://purl.obolibrary.org/obo/"
GRAPHS = {
    "graphs": [
        {
            "nodes": [
                {"id": BASE + "X_1", "lbl": "cell", "type": "CLASS"},
                {"id": BASE + "X_2", "lbl": "T, cell", "type": "CLASS", "meta": {"synonyms": [
                    {"pred": "hasExactSynonym", "val": 'T "lymphocyte"'},
                    {"pred": "hasRelatedSynonym", "val": "thymus thing"}]}},
                {"id": BASE + "X_3", "lbl": "obsolete old T", "type": "CLASS", "meta": {
                    "deprecated": True, "basicPropertyValues": [
                        {"pred": BASE + "IAO_0100001", "val": BASE + "X_2"}]}},
                {"id": BASE + "X_9", "type": "CLASS"},
                {"id": BASE + "part_of", "lbl": "part of", "type": "PROPERTY"},
            ],
            "edges": [
                {"sub": BASE + "X_2", "pred": "is_a", "obj": BASE + "X_1"},
                {"sub": BASE + "X_1", "pred": BASE + "BFO_0000050", "obj": BASE + "X_2"},
            ],
        }
    ]
}  # fmt: skip


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "content"),
        [("a.obo", OBO), ("a.json", json.dumps(GUIDE)), ("b.json", json.dumps(GRAPHS))],
    )
    @pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
    def test_every_form_gives_the_same(self, tmp_path, name, content, packed):
        raw = content.encode()
        if packed == ".gz":
            raw = gzip.compress(raw)
        elif packed == ".zst":
            raw = pa.compress(raw, codec="zstd", asbytes=True)
        path = tmp_path / (name + packed)
        path.write_bytes(raw)
        ontology = read_ontology(path, {"T": "X:3"})
        assert ontology.terms == WANTED
        assert ontology.find("old T") == ontology.find("T") == "X:2"

    def test_the_newest_file_of_the_package(self, tmp_path, monkeypatch):
        data = tmp_path / "cellxgene_ontology_guide" / "data"
        data.mkdir(parents=True)
        (data.parent / "__init__.py").write_text("raise RuntimeError('its code is not needed')")
        for date, name in (("2025-02-13", "old"), ("2026-03-26", "new")):
            terms = {"X:1": {"ancestors": {}, "label": name, "deprecated": False}}
            raw = pa.compress(json.dumps(terms).encode(), codec="zstd", asbytes=True)
            (data / f"CL-ontology-v{date}.json.zst").write_bytes(raw)
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        assert read_ontology().labels_below("X:1") == ["new"]

    def test_without_the_package(self, monkeypatch):
        monkeypatch.setattr(sys, "path", [])
        monkeypatch.delitem(sys.modules, "cellxgene_ontology_guide", raising=False)
        with pytest.raises(
            UsageError, match=r"no ontology file was given.*c2s-toolkit\[ontology\]"
        ):
            read_ontology()

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("a.owl", b"<rdf/>", "give an .obo or a .json file"),
            ("a.json", b"{", "not valid JSON"),
            ("a.json", b"[1]", "neither an OBO graph nor"),
            ("a.json", b'{"X:1": 3}', "neither an OBO graph nor"),
            ("a.obo", b"[Term]\n", "holds no term"),
            ("a.obo", b"\xff\xfe", "cannot be read"),
            ("a.obo.gz", b"no", "cannot be read"),
            ("a.obo.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 9, "cannot be read"),
            ("a.json.zst", b"no", "cannot be read"),
            ("absent.obo", None, "cannot be read"),
        ],
    )
    def test_what_cannot_be_read_is_one_line(self, tmp_path, name, content, said):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=said) as raised:
            read_ontology(tmp_path / name)
        assert name in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_labels(self, tmp_path):
        path = tmp_path / "labels.tsv"
        path.write_text("label\tterm\nbeta\tCL:0000169\n\nT\tT cell\n")
        assert read_labels(path) == {"beta": "CL:0000169", "T": "T cell"}
        assert read_ontology(EXCERPT, path).find("Beta") == "CL:0000169"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("beta CL:0000169\n", "line 1"),
            ("a\tX:1\na\tX:2\n", "line 2 gives 'a' another term"),
            ("\n", "holds no label"),
        ],
    )
    def test_labels_that_cannot_be_read(self, tmp_path, content, said):
        path = tmp_path / "labels.tsv"
        path.write_text(content)
        with pytest.raises(InputError, match=said):
            read_labels(path)
