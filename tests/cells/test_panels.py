"""Which genes may be ranked: a panel, a column of `var`, or a rule."""

import numpy as np
import pandas as pd
import pytest

from c2s.cells.panels import GENE_RULES, select_genes
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.datasets import pancreas

MITOCHONDRIAL = ["MT-ND1", "MT-CO1", "mt-Nd1", "MT-TL1"]
RIBOSOMAL = ["RPL3", "RPL7A", "RPL36AL", "RPLP0", "RPLP1", "RPS2", "RPS4X", "RPS4Y1", "RPS27A",
             "RPSA", "RPS6", "Rpl13a", "Rplp2", "RPS10-NUDT3", "RPL22L1", "RPS19"]  # fmt: skip
OTHERS = ["INS", "MTOR", "MTND1P23", "MRPL3", "MRPS12", "RPA1", "RPN1", "RPSAP9", "RRP1", "RPE65",
          "RPS6KA1", "RPS6KB1", "RPS6KC1", "Rps6kl1", "RPS19BP1", "RPRM", "RPLX"]  # fmt: skip


def selected(genes, names=(), var=None):
    vocabulary = GeneVocabulary(names)
    var = pd.DataFrame(index=list(names)) if var is None else var
    mask = select_genes(var, vocabulary, genes)
    return None if mask is None else [n for n, kept in zip(names, mask, strict=True) if kept]


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("no_mt", [*RIBOSOMAL, *OTHERS]),
        ("no_ribo", [*MITOCHONDRIAL, *OTHERS]),
        ("no_mt_ribo", OTHERS),
    ],
)
def test_rules(rule, kept):
    assert selected(rule, [*MITOCHONDRIAL, *RIBOSOMAL, *OTHERS]) == kept


def test_rules_on_symbols_of_ids():
    vocabulary = GeneVocabulary(["ENSG00000198888.2", "ENSG00000141510"], ["MT-ND1", "TP53"])
    assert select_genes(pd.DataFrame(), vocabulary, "no_mt").tolist() == [False, True]


def test_rules_on_real_genes():
    names = list(pancreas().var_names)
    kept = set(selected("no_ribo", names))
    dropped = [n for n in names if n not in kept]
    assert {"RPL3", "RPLP0", "RPSA", "RPS27A"} <= set(dropped)
    assert not [n for n in dropped if n.startswith("RPS6K")]
    # The cytosolic ribosome has 80 proteins; paralogues and read-through genes come on top.
    assert 80 <= len(dropped) <= 120


def test_none_selects_everything():
    assert selected(None, ["A"]) is None


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Index, set])
def test_a_panel(kind):
    assert selected(kind(["ins", "MTOR", "missing"]), OTHERS) == ["INS", "MTOR"]


def test_a_boolean_column_of_var():
    var = pd.DataFrame({"highly_variable": [True, False], "n": [1, 2]}, index=["A", "B"])
    assert selected("highly_variable", ["A", "B"], var) == ["A"]
    with pytest.raises(UsageError, match=r"genes='n' is neither a rule \(no_mt, no_ribo, no_mt_r"):
        selected("n", ["A", "B"], var)
    with pytest.raises(UsageError, match=r"nor a boolean column of var \(highly_variable\)"):
        selected("hvg", ["A", "B"], var)
    with pytest.raises(UsageError, match=r"\(there is none\); for a panel give a list of names"):
        selected("INS", ["A", "B"])


def test_selecting_nothing_is_refused():
    var = pd.DataFrame({"hv": [False, False]}, index=["A", "B"])
    with pytest.raises(InputError, match="genes='hv' selects none of the 2 genes"):
        selected("hv", ["A", "B"], var)
    with pytest.raises(InputError, match="genes='no_mt' selects none of the 1 genes"):
        selected("no_mt", ["MT-ND1"])
    with pytest.raises(InputError, match="none of the 1 genes asked for"):
        selected(["X"], ["A"])


def test_the_rules_are_named():
    assert set(GENE_RULES) == {"no_mt", "no_ribo", "no_mt_ribo"}
