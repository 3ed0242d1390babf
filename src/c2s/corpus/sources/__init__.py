"""Sources of cells: a file, opened once, from which any range of rows is read in bounded memory.

=============  =============================================================================
`opening`      `open_source`: which kind of source a path is
`paths`        `digest`, the identity of a source's content; `expand`, files by pattern
`base`         `CellSource`, what every source can do; one line for whatever a file does wrong
`memory`       cells of an `AnnData`, among them the packaged data
`stored`       an `.h5ad` file or a `.zarr` folder: finding its parts
`matrices`     dense and sparse matrices on disk, and their rows as CSR blocks
`arrays`       one-dimensional arrays on disk, and unpacking their chunks
`by_row`       rewriting a matrix that is stored by gene (CSC), once, by cell
`obs`          tables of cells and genes: columns of every kind that anndata writes, as text
`soma`         a TileDB-SOMA experiment (extra `soma`; loaded when one is opened)
=============  =============================================================================
"""

from c2s.corpus.sources.base import CellSource
from c2s.corpus.sources.memory import AnnDataSource
from c2s.corpus.sources.opening import open_source
from c2s.corpus.sources.paths import digest, expand

__all__ = ["AnnDataSource", "CellSource", "digest", "expand", "open_source"]
