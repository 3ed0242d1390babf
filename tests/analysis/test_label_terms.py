"""Annotation over the Cell Ontology: candidates below a term, sums above the labels, and a surer answer higher up."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import c2s
from c2s.analysis.label_terms import BackOff, labels_below
from c2s.common.errors import C2SWarning, UsageError
from c2s.knowledge.ontology import Ontology, Term, TermsAbove, read_ontology, roll_up

TYPES = ["acinar", "alpha", "beta", "delta", "ductal"]
EXCERPT = Path(__file__).parents[1] / "knowledge" / "data" / "cl_excerpt.obo"
#: What the authors of the pancreas data call the types.
BARON = {
    "acinar": "pancreatic acinar cell",
    "alpha": "CL:0000171",
    "beta": "pancreatic beta cell",
    "delta": "pancreatic D cell",
    "ductal": "pancreatic ductal cell",
}


@pytest.fixture(scope="module")
def cl():
    return read_ontology(EXCERPT, BARON)


@pytest.fixture
def few(cut):
    """Six cells of each type."""
    return cut[np.sort(np.concatenate([np.arange(0, 150, 30) + i for i in range(6)]))].copy()


class TestCandidates:
    def test_the_labels_that_the_model_knows_below_a_term(self, model, cl):
        assert labels_below(model, cl, "pancreatic endocrine cell") == ["alpha", "beta", "delta"]
        assert labels_below(model, cl, "CL:0000000") == TYPES
        assert labels_below(model, cl, "beta") == ["beta"]

    def test_or_every_term_in_the_models_own_spelling(self, model, cl):
        found = labels_below(model, cl, "pancreatic endocrine cell", every=True)
        terms = set(cl.descendants(cl.find("pancreatic endocrine cell")))
        assert {cl.find(label) for label in found} == terms
        assert len(found) == len(terms) > 4
        assert found[:3] == ["alpha", "beta", "delta"]
        assert "type B pancreatic cell" not in found

    def test_none(self, model, cl):
        with pytest.raises(UsageError, match="no label below 'lymphocyte'; it knows: acinar"):
            labels_below(model, cl, "lymphocyte")


class TestAnnotate:
    def test_chooses_among_what_lies_below(self, few, model, cl):
        done = c2s.tl.annotate(
            few, model, ontology=cl, labels_below="CL:0008024", probabilities_key="p", copy=True
        )
        assert list(done.obsm["p"].columns) == ["alpha", "beta", "delta"]
        by_list = c2s.tl.annotate(few, model, ["alpha", "beta", "delta"], copy=True)
        assert done.obs["c2s_cell_type"].equals(by_list.obs["c2s_cell_type"])
        assert done.uns["c2s"]["annotate"]["parameters"]["labels_below"] == "CL:0008024"
        # All candidates are endocrine cells.
        ancestors = done.obsm["c2s_cell_type_ancestors"]
        np.testing.assert_allclose(ancestors["pancreatic endocrine cell"], 1)

    def test_sums_above_the_labels(self, few, model, cl, tmp_path):
        c2s.tl.annotate(few, model, ontology=cl, probabilities_key="p")
        p, ancestors = few.obsm["p"], few.obsm["c2s_cell_type_ancestors"]
        endocrine = p["alpha"] + p["beta"] + p["delta"]
        np.testing.assert_allclose(ancestors["pancreatic endocrine cell"], endocrine)
        np.testing.assert_allclose(ancestors["type B pancreatic cell"], p["beta"])
        np.testing.assert_allclose(ancestors["cell"], 1)
        assert "c2s_cell_type_ancestors" in few.uns["c2s"]["annotate"]["keys"]["obsm"]
        few.write_h5ad(tmp_path / "a.h5ad")  # where column names with a slash would be warned of
        again = ad.read_h5ad(tmp_path / "a.h5ad").obsm["c2s_cell_type_ancestors"]
        assert list(again.columns) == list(ancestors.columns)

    def test_every_term_with_one_warning(self, few, model, cl):
        with pytest.warns(C2SWarning, match="never saw 2 of the 5 labels") as warned:
            c2s.tl.annotate(
                few[:2].copy(), model, ontology=self.small(), labels_below="x", every_term=True
            )
        assert len(warned) == 1
        with pytest.raises(UsageError, match="never saw 2 of the 5"):
            c2s.tl.annotate(
                few, model, ontology=self.small(), labels_below="x", every_term=True, strict=True
            )

    def small(self):
        names = ["x", "alpha", "beta", "delta", "gamma"]
        return Ontology([Term(f"X:{i}", n, ("X:0",) if i else ()) for i, n in enumerate(names)])

    def test_backs_off_to_a_term_that_is_sure_enough(self, few, model, cl):
        plain = c2s.tl.annotate(few, model, probabilities_key="p", temperature=4, copy=True)
        best = plain.obs["c2s_confidence"].to_numpy()
        limit = float(np.sort(best)[len(best) // 2])
        c2s.tl.annotate(
            few, model, ontology=cl, min_confidence=limit, back_off=True, temperature=4
        )  # fmt: skip
        answers = few.obs["c2s_cell_type"].astype(str).to_numpy()
        sure = best >= limit
        assert (answers[sure] == plain.obs["c2s_cell_type"].astype(str)[sure]).all()
        rolled = roll_up(plain.obsm["p"], cl)
        answered = 0
        for i in np.flatnonzero(~sure):
            if answers[i] == "unknown":
                enough = rolled.columns[rolled.iloc[i] >= limit]
                assert set(enough) <= {"cell"}
                continue
            answered += 1
            term = cl.find(answers[i])
            p = rolled.iloc[i][cl.terms[term].name]
            assert p >= limit
            assert few.obs["c2s_confidence"].iloc[i] == pytest.approx(p)
            # Nothing below it would do.
            for child in cl.descendants(term) - {term}:
                assert rolled.iloc[i].get(cl.terms[child].name, 0.0) < limit
        assert answered

    def test_chunks_decide_nothing(self, few, model, cl):
        options = {"ontology": cl, "min_confidence": 0.8, "back_off": True, "temperature": 3}
        whole = c2s.tl.annotate(few, model, copy=True, **options)
        parts = c2s.tl.annotate(few, model, copy=True, chunk_size=7, **options)
        assert list(parts.obs["c2s_cell_type"]) == list(whole.obs["c2s_cell_type"])
        assert parts.obs["c2s_cell_type"].dtype == whole.obs["c2s_cell_type"].dtype
        found, wanted = (a.obsm["c2s_cell_type_ancestors"] for a in (parts, whole))
        assert list(found.columns) == list(wanted.columns)
        np.testing.assert_allclose(found, wanted, atol=1e-5)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"labels": ["beta"], "labels_below": "cell"}, "not both"),
            ({"every_term": True}, "every_term=True needs labels_below"),
            ({"back_off": True}, "back_off=True needs min_confidence"),
            ({"labels_below": "betta"}, "'betta' is no term.*nearest: beta"),
            (
                {"back_off": True, "min_confidence": 0.5, "unknown": "endocrine cell"},
                "'endocrine cell' is one of the labels, or of the terms above them",
            ),
        ],
    )
    def test_what_cannot_work_is_refused(self, few, model, cl, options, said):
        with pytest.raises(UsageError, match=said):
            c2s.tl.annotate(few, model, ontology=cl, **options)
        assert "c2s_cell_type" not in few.obs

    def test_a_file_is_read(self, few, model):
        with pytest.raises(UsageError, match="trained on no label below 'lymphocyte'"):
            c2s.tl.annotate(few, model, ontology=EXCERPT, labels_below="lymphocyte")


class TestBackOff:
    """By hand: a, b and c below m; c and d below n; m and n below the root."""

    @pytest.fixture
    def ontology(self):
        return Ontology(
            [
                Term("X:0", "root"),
                Term("X:1", "m", ("X:0",)),
                Term("X:2", "n", ("X:0",)),
                Term("X:3", "a", ("X:1",)),
                Term("X:4", "b", ("X:1",)),
                Term("X:5", "c", ("X:1", "X:2")),
                Term("X:6", "d", ("X:2",)),
            ]
        )

    def answer(self, own, labels, row, least):
        above = TermsAbove(labels, own)
        back_off = BackOff(labels, above, own, least)
        (code,), (p,) = back_off.choose(np.array([row]), above.sums(np.array([row])))
        return None if code < 0 else back_off.answers[code], p

    @pytest.mark.parametrize(
        ("row", "least", "wanted"),
        [
            ([0.5, 0.25, 0.125, 0.125], 0.5, ("A", 0.5)),
            ([0.5, 0.25, 0.125, 0.125], 0.75, ("m", 0.875)),
            ([0.25, 0.0, 0.25, 0.5], 0.75, ("n", 0.75)),
            # n says more than m: fewer terms are below it.
            ([0.125, 0.125, 0.375, 0.375], 0.5, ("n", 0.75)),
            ([0.5, 0.0, 0.0, 0.5], 0.75, (None, 0.5)),
            ([np.nan] * 4, 0.5, (None, np.nan)),
        ],
    )
    def test_by_hand(self, ontology, row, least, wanted):
        own = ontology.with_labels({"A": "X:3"})
        answer, p = self.answer(own, ["A", "b", "c", "d"], row, least)
        assert answer == wanted[0]
        assert p == pytest.approx(wanted[1], nan_ok=True)

    def test_a_label_in_the_middle_keeps_its_spelling(self, ontology):
        own = ontology.with_labels({"Mm": "m"})
        found = self.answer(own, ["Mm", "a", "d"], [0.25, 0.375, 0.375], 0.5)
        assert found == ("Mm", 0.625)
