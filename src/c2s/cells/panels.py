"""Which genes may be ranked: a panel, a column of `var`, or a rule."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError, listing

_MITOCHONDRIAL = re.compile(r"^MT-")
# Not the kinases RPS6KA1 …, nor RPS19BP1, which binds a ribosomal protein and is none.
_RIBOSOMAL = re.compile(r"^RP[LS](?!\d+(?:K|BP))P?\d|^RPSA$")

#: Rules by name, each with the genes that it drops (matched on upper-case words).
GENE_RULES: dict[str, tuple[re.Pattern[str], ...]] = {
    "no_mt": (_MITOCHONDRIAL,),
    "no_ribo": (_RIBOSOMAL,),
    "no_mt_ribo": (_MITOCHONDRIAL, _RIBOSOMAL),
}


def select_genes(
    var: pd.DataFrame, vocabulary: GeneVocabulary, genes: Sequence[str] | str | None
) -> np.ndarray | None:
    """Return a boolean array over columns for the argument `genes=` of every verb; None selects all.

    Parameters
    ----------
    var
        Table of genes, for boolean columns such as `highly_variable`.
    vocabulary
        Words of the same columns.
    genes
        A list of names; the name of a boolean column of `var`; "no_mt", "no_ribo" or "no_mt_ribo"; or None.

    Raises
    ------
    UsageError
        A name that is neither a rule nor a boolean column.
    InputError
        Nothing would be selected.
    """
    if genes is None:
        return None
    if not isinstance(genes, str):
        return vocabulary.mask(list(genes))
    if genes in GENE_RULES:
        selected = np.array(
            [not any(p.match(w) for p in GENE_RULES[genes]) for w in vocabulary.words]
        )
    elif genes in var and var[genes].dtype == bool:
        selected = var[genes].to_numpy()
    else:
        columns = [str(c) for c in var.columns if var[c].dtype == bool]
        raise UsageError(
            f"genes={genes!r} is neither a rule ({listing(list(GENE_RULES))}) nor a boolean column of var "
            f"({listing(columns) or 'there is none'}); for a panel give a list of names "
            "(on the command line a file of them)"
        )
    if not selected.any():
        raise InputError(f"genes={genes!r} selects none of the {len(vocabulary):,} genes")
    return selected
