"""The cells of `docs/tutorials/corpus.ipynb`: a training corpus is built, checked and read."""
# ruff: noqa: E501 - prose that a notebook wraps

CELLS = [
    (
        "md",
        """# Build, check and read a training corpus

A *corpus* is what a language model of cells is trained on: sentences of cells, and samples of many tasks, already cut into
tokens. This tutorial makes one of all twelve tasks from the 1,937 real pancreas cells that come with the package, checks every
byte of it, reads it with `datasets`, DuckDB and polars, and looks at what training sees. It takes about a minute on one core. For
fifty million cells the commands are the same.""",
    ),
    (
        "code",
        """import os
import tempfile

os.chdir(tempfile.mkdtemp())  # everything is written there""",
    ),
    (
        "md",
        """## The recipe

A corpus is described by a recipe. `sources` says where the cells are: here the packaged ones; usually patterns such as
`data/*.h5ad`. Two tasks need the abstract of the study, and two need gene sets. So there are two more files, of which the second
is in the GMT format of MSigDB.""",
    ),
    (
        "code",
        """%%writefile pancreas.yaml
sources:
  - data: pancreas
    values: {study: Baron 2016}   # a field that no column of the file has
abstracts: abstracts.jsonl
gene_sets: [markers.gmt]
tokenizer: small                  # trained on the prompts and labels; or a folder or hub id
tokens: genes                     # one token a gene; 'text' writes genes in the tokenizer's pieces
samples_per_cell: 3
single_genes: [50, 200]           # genes of a cell, tasks of one cell
multi_genes: [20, 100]            # genes of each cell, tasks of several
multi_cells: [2, 8]
context: 1024                     # most tokens of a sample
unit_cells: 512                   # rows that are worked on at a time
seed: 0""",
    ),
    (
        "code",
        """import json
from pathlib import Path

study = {
    "study": "Baron 2016",
    "abstract": "Single cells of the human and mouse pancreas were sequenced in droplets.",
    "paraphrases": [
        "Droplet sequencing of islet cells from people and mice yields an atlas of pancreatic cell types.",
        "This study maps the pancreas cell by cell, from hormone-producing to exocrine and supporting cells.",
    ],
}
Path("abstracts.jsonl").write_text(json.dumps(study) + "\\n")

markers = {
    "BETA_CELL_MARKERS": "INS IAPP MAFA PDX1 NKX6-1 G6PC2 ADCYAP1 SLC30A8",
    "ALPHA_CELL_MARKERS": "GCG TTR IRX2 ARX LOXL4 DPP4 GC PLCE1",
    "ACINAR_CELL_MARKERS": "PRSS1 PRSS2 CTRB1 CTRB2 CPA1 CPB1 REG1A PNLIP",
}
lines = ["\\t".join([name, "textbook", *genes.split()]) for name, genes in markers.items()]
Path("markers.gmt").write_text("\\n".join(lines))

import c2s

c2s.datasets.pancreas().obs.head(3)""",
    ),
    (
        "md",
        """The columns `organism`, `tissue`, `cell_type`, `donor` and `assay` are found by their names. A recipe can name others.

## What would be made?

`--dry-run` looks at the sources, builds a few cells in a temporary folder, and says what the whole would take. A field that does
not exist, a column that is missing or a file that cannot be read is told here, in one line.""",
    ),
    ("code", """%%bash\nc2s corpus build pancreas.yaml --dry-run"""),
    (
        "md",
        """## Build

What stands behind the task is the number of its samples and of their tokens.""",
    ),
    ("code", """%%bash\nc2s corpus build pancreas.yaml --out corpus --workers 2"""),
    (
        "code",
        """manifest = json.loads(Path("corpus/manifest.json").read_text())
print(*manifest["notes"], sep="\\n")""",
    ),
    (
        "md",
        """A corpus is split by donor, so that a model is tested on donors that it has not seen. Here there is only one, so the cells were
split instead, and the build says so.

## Check

`verify` reads everything back: the hash of every file, that no cell is in two splits, that no sample is too long or cut, and that all
counts are right.""",
    ),
    ("code", """%%bash\nc2s corpus verify corpus"""),
    (
        "md",
        """## Samples as text

What a model is asked, and what it is to answer: one sample of four of the tasks.""",
    ),
    (
        "code",
        """from c2s.corpus.show import show_samples


def show(text):
    for line in text.splitlines():
        print(line if len(line) <= 90 else f"{line[:88]} …")


for task in ("cell_type", "cond_cell", "sample_cell_types", "gene_set_name"):
    sample = show_samples("corpus", 1, task=task)[0]
    show(f"--- {task}, {sample.n_tokens} tokens\\n{sample.prompt}\\n>>> {sample.response}\\n\\n")""",
    ),
    (
        "md",
        """## What is in the folder""",
    ),
    (
        "code",
        """for path in sorted(Path("corpus").rglob("*")):
    depth = len(path.parts) - 2
    if path.is_dir() or depth == 0 or path.parts[1:3] == ("tokens", "train"):
        print("    " * depth + path.name + ("/" if path.is_dir() else f"  {path.stat().st_size:,} bytes"))""",
    ),
    (
        "md",
        """`cells/` holds a row a cell, as Parquet; `tokens/` holds the training samples, as Arrow. A file is named after the hash of its source
and its first row, so neither order nor number of processes shows in it.

## Cells, with `datasets`

The card `README.md` says where the splits are.""",
    ),
    (
        "code",
        """import datasets

datasets.disable_progress_bars()
cells = datasets.load_dataset("corpus", "cells")
print({split: rows.num_rows for split, rows in cells.items()})
show("\\n".join(f"{name:18} {value}" for name, value in cells["train"][0].items()))""",
    ),
    (
        "md",
        """## With DuckDB, by SQL

How often is insulin the first gene, by cell type?""",
    ),
    (
        "code",
        """import duckdb

duckdb.sql(\"\"\"
    select cell_type, count(*) as cells, round(100 * avg((cell_sentence like 'INS %')::int)) as percent_insulin_first
    from 'corpus/cells/*/*.parquet'
    group by cell_type having count(*) > 100 order by percent_insulin_first desc
\"\"\").df()""",
    ),
    ("md", """## With polars\n\nThe same files, and the training samples too."""),
    (
        "code",
        """import polars as pl

samples = pl.scan_ipc("corpus/tokens/train/*.arrow").with_columns(length=pl.col("tokens").list.len())
(
    samples.group_by(pl.col("task").cast(pl.String))
    .agg(samples=pl.len(), median_tokens=pl.col("length").median(), longest=pl.col("length").max())
    .sort("median_tokens", descending=True)
    .collect()
    .to_pandas()
)""",
    ),
    (
        "md",
        """## A sample as training sees it

Each sample is its prompt, its response and an end-of-text token. `prompt_length` says where the response begins: that is the whole
loss mask. In training on responses only the marked tokens are learned.""",
    ),
    (
        "code",
        """from transformers import AutoTokenizer

from c2s.corpus.shards import TokenShard

tokenizer = AutoTokenizer.from_pretrained("corpus/tokenizer")
shards = [TokenShard(path) for path in sorted(Path("corpus/tokens/train").glob("*.arrow"))]
gene_sets = next(s for s in shards if s.column("task")[0].as_py().startswith("gene_set"))

i = int(gene_sets.lengths().argmin())  # the shortest sample
tokens, prompt_length = gene_sets.tokens(i), gene_sets.prompt_length(i)
for position, token in enumerate(tokens.tolist()):
    print(f"{token:6}  {'learned' if position >= prompt_length else '':8}{tokenizer.decode([token])!r}")""",
    ),
    (
        "md",
        """The tokens were put together from a table of the genes' tokens, without running the tokenizer over the text. They are exactly those
that it gives:""",
    ),
    (
        "code",
        """from c2s.corpus.show import corpus_tokenizer

texts = corpus_tokenizer("corpus", manifest)  # puts spaces between genes
shard = next(s for s in shards if s is not gene_sets)
for i in range(200):
    tokens = shard.tokens(i)[:-1].tolist()  # without end-of-text
    assert tokenizer(texts.decode(tokens)).input_ids == tokens
print("200 samples: equal")""",
    ),
    (
        "md",
        """## A packed sequence

Samples are short and the context is long, so samples are packed: those with the same number in `sequence` stand together and have at
most `context` tokens. A model must not look from one sample of a sequence into another.""",
    ),
    (
        "code",
        """import matplotlib.pyplot as plt

lengths, tasks = shard.lengths(), shard.column("task").to_pylist()
figure, axis = plt.subplots(figsize=(9, 3.6), layout="constrained")
for sequence in range(12):
    start = 0
    for i in range(*shard.sample_starts[sequence : sequence + 2]):
        prompt = shard.prompt_length(i)
        pieces = [(start, prompt), (start + prompt, lengths[i] - prompt)]
        axis.broken_barh(pieces, (sequence - 0.4, 0.8), facecolors=["#c9d6d4", "#0f766e"], edgecolor="white")
        start += lengths[i]
axis.set(xlabel="token", ylabel="packed sequence", xlim=(0, shard.facts.context), ylim=(11.6, -0.6))
axis.set_title("Twelve packed sequences: prompts (light), responses (dark)", loc="left")
axis.spines[["top", "right"]].set_visible(False)
plt.show()

first, last = shard.sample_starts[:2]
for i in range(first, last):
    print(f"sequence 0: {tasks[i]:22} {lengths[i]:4} tokens, of them learned {lengths[i] - shard.prompt_length(i):4}")""",
    ),
    (
        "md",
        """## In training

`ShardReader` yields packed sequences in an order that depends on the seed and the epoch only. `labels` are −100 where nothing is learned,
and `position_ids` begin anew in each sample, which is how transformers keeps samples apart.""",
    ),
    (
        "code",
        """from c2s.corpus.reader import ShardReader

reader = ShardReader("corpus", "train", seed=0)
items = iter(reader)
sequence = next(items)
print({name: tuple(value.shape) for name, value in sequence.items()})
print(f"{len(reader):,} sequences an epoch; samples begin at", (sequence["position_ids"] == 0).nonzero().flatten().tolist())

state = reader.state_dict()  # for a checkpoint
following = next(items)
again = ShardReader("corpus", "train", seed=0)
again.load_state_dict(state)
assert next(iter(again))["input_ids"].equal(following["input_ids"])""",
    ),
    (
        "md",
        """## The same bytes, and a damaged file

The bytes depend on the recipe and the cells, not on who did the work. One process makes the same corpus as two. And a single wrong bit
is found, named, and mended by the same command, which builds nothing else again.""",
    ),
    (
        "code",
        """%%bash
c2s corpus build pancreas.yaml --out again --workers 1 > /dev/null
diff -r corpus again && echo "the same bytes\"""",
    ),
    (
        "code",
        """damaged = sorted(Path("corpus/tokens/train").glob("*.arrow"))[1]
content = bytearray(damaged.read_bytes())
content[len(content) // 2] ^= 1
damaged.write_bytes(content)

from c2s.corpus.verify import verify_corpus

verify_corpus("corpus", workers=1, on_unit=lambda n: None)""",
    ),
    (
        "code",
        """%%bash
c2s corpus build pancreas.yaml --out corpus --workers 1 > /dev/null
c2s corpus verify corpus
diff -r corpus again && echo "the same bytes\"""",
    ),
    (
        "md",
        """## Where to go

[Build a training corpus](../guide/corpus.md) explains recipes for your own files, splits by donor, and what happens when something
fails. [What a corpus holds](../guide/corpus-files.md) lists all columns. [A corpus on a cluster](../guide/corpus-cluster.md) is for more cells
than one machine can do overnight.""",
    ),
]
