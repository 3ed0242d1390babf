"""What tests of several rooms share: real cells, tokenizers, tiny networks, and a small trained model."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may ask the hub

import numpy as np
import pytest

TYPES = ("acinar", "alpha", "beta", "delta", "ductal")
ORGANISM = "Homo sapiens"
TOP_K = 16


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that several processes end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_tutorials.py", item.path not in slow))


@pytest.fixture(scope="session")
def pancreas():
    """The packaged pancreas, whole. Not to be changed."""
    from c2s.datasets import pancreas

    return pancreas()


@pytest.fixture(scope="session")
def cut(pancreas):
    """The first 30 cells of each of five types, with all genes. Not to be changed."""
    labels = pancreas.obs["cell_type"].astype(str).to_numpy()
    rows = np.concatenate([np.flatnonzero(labels == t)[:30] for t in TYPES])
    part = pancreas[rows].copy()
    part.obs["cell_type"] = part.obs["cell_type"].cat.remove_unused_categories()
    return part


@pytest.fixture(scope="session")
def cut_genes(cut):
    """Genes that are among the first 16 of at least two cells of `cut`: some 130 words."""
    from c2s.cells.sentences import cell_sentences
    from c2s.cells.vocabulary import GeneVocabulary

    top = cell_sentences(cut, top_k=TOP_K)
    often = np.flatnonzero(np.bincount(top.genes, minlength=len(top.vocabulary)) >= 2)
    return GeneVocabulary.from_words([top.vocabulary.words[column] for column in often])


@pytest.fixture(scope="session")
def prompt_texts():
    """Every wording of two tasks with every value, cells left out: what a tokenizer is trained on."""
    from c2s.tasks.prompts import load_prompts

    pack = load_prompts("c2s")
    texts = []
    for wording in (pack.wording("cell_type"), pack.wording("cond_cell")):
        for template in (*wording.prompts, wording.response):
            for cell_type in TYPES:
                values = {"cell_type": cell_type, "organism": ORGANISM, "num_genes": TOP_K}
                filled = template.fill({**values, "cell_sentence": ""})
                texts.append("".join(str(part) for part in filled))
    return texts


@pytest.fixture(scope="session")
def make_tokenizer(prompt_texts):
    """Return a function that makes a `CellTokenizer` on a byte-level BPE trained on the prompts."""
    from c2s.tokens.tokenizer import CellTokenizer, add_gene_tokens, train_text_tokenizer

    def make(vocabulary, mode, size=400):
        backend = train_text_tokenizer(prompt_texts, size)
        if mode == "genes":
            add_gene_tokens(backend, vocabulary)
        return CellTokenizer(backend, vocabulary, mode)

    return make


@pytest.fixture(scope="session")
def gene_tokenizer(make_tokenizer, cut_genes):
    """One token a gene, for the genes of `cut`; most words are one token too. Not to be changed."""
    return make_tokenizer(cut_genes, "genes", 900)


@pytest.fixture(scope="session")
def real_tokenizers():
    """The folder with the tokenizers GPT-NeoX, Gemma and SmolLM2 (`scripts/fetch_tokenizers.py`)."""
    beside = Path(__file__).parent.parent / ".tokenizers"
    folder = Path(os.environ.get("C2S_TEST_TOKENIZERS") or beside)
    missing = [n for n in ("gpt-neox", "gemma", "smollm2") if not (folder / n).is_dir()]
    if missing:
        pytest.skip(f"{folder} has no {', '.join(missing)}; run scripts/fetch_tokenizers.py")
    return folder


@pytest.fixture(scope="session")
def make_network():
    """Return a function that makes a tiny network of random weights, large enough to be uneven.

    The initialisation is wide, so that a token's probability depends on what stands before it.
    """
    import torch
    import transformers

    shapes = {
        "gpt_neox": lambda **kw: transformers.GPTNeoXConfig(intermediate_size=64, **kw),
        # Absolute positions: a shift of all positions would not go unnoticed.
        "gpt2": lambda **kw: transformers.GPT2Config(n_inner=64, **kw),
        "llama": lambda **kw: transformers.LlamaConfig(
            intermediate_size=64, num_key_value_heads=2, **kw
        ),
        # A window shorter than the prompts, so that sliding attention matters.
        "gemma2": lambda **kw: transformers.Gemma2Config(
            intermediate_size=64, num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8,
            sliding_window=8, attn_logit_softcapping=2.0, final_logit_softcapping=3.0, **kw
        ),
    }  # fmt: skip

    def make(architecture, tokenizer, *, hidden=32, context=512, seed=0, spread=0.3):
        config = shapes[architecture](
            vocab_size=len(tokenizer.backend), hidden_size=hidden, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=context, initializer_range=spread, bos_token_id=tokenizer.eos_id,
            eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id, tie_word_embeddings=False,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return transformers.AutoModelForCausalLM.from_config(config).eval()

    return make


@pytest.fixture(scope="session")
def make_card():
    """Return a function that makes the card of a model that knows the five types of `cut`."""
    from c2s.models.directory import ModelCard

    def make(tokenizer, **changes):
        fields = {
            "vocabulary": list(tokenizer.vocabulary.words),
            "mode": tokenizer.mode,
            "top_k": TOP_K,
            "tasks": ["cell_type", "cond_cell"],
            "conditions": {"cell_type": list(TYPES), "organism": [ORGANISM]},
        }
        return ModelCard(**{**fields, **changes})

    return make


@pytest.fixture(scope="session")
def make_model(make_network, make_card):
    """Return a function that makes a `Model` of random weights on a tokenizer."""
    from c2s.models.directory import Model

    def make(tokenizer, architecture="gpt_neox", *, card=None, **shape):
        network = make_network(architecture, tokenizer, **shape)
        return Model(network, tokenizer, make_card(tokenizer, **(card or {})))

    return make


@pytest.fixture(scope="session")
def cell_table(cut, cut_genes):
    """The cells of `cut` in the genes of `cut_genes`, for drawing training examples."""
    from c2s.cells.vocabulary import GeneVocabulary
    from c2s.corpus.online import CellTable

    columns = GeneVocabulary.from_var(cut.var).columns(cut_genes.words)
    fields = {name: cut.obs[name].astype(str).to_numpy() for name in ("cell_type", "organism")}
    return CellTable(cut.X[:, columns].tocsr(), cut_genes, cut.obs_names.to_numpy(), fields)


@pytest.fixture(scope="session")
def make_stream(cell_table):
    """Return a function that makes a stream of training examples over `cut`."""
    from c2s.corpus.online import OnlineExamples, TaskMix
    from c2s.tasks.prompts import load_prompts

    def make(n_examples, *, tasks=("cell_type", "cond_cell"), seed=0):
        mix = {task: TaskMix() for task in tasks}
        return OnlineExamples(cell_table, mix, load_prompts("c2s"), TOP_K, n_examples, seed)

    return make


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, cut, gene_tokenizer, make_model, make_stream):
    """A model directory: a small GPT-NeoX trained on `cut` for seconds. Not to be changed."""
    from c2s.cells.sentences import fit_inverse
    from c2s.training.sft import Optimisation, train

    line = fit_inverse(cut).to_dict()
    card = {
        "inverse": {"pancreas": line},
        "generation": {"temperature": 0.9},
        "training": {"split": {}},
    }
    model = make_model(gene_tokenizer, card=card, hidden=48, spread=0.02)
    optimisation = Optimisation(steps=150, batch_size=16, learning_rate=5e-3)
    train(model, make_stream(150 * 16), optimisation, device="cpu")
    folder = tmp_path_factory.mktemp("trained") / "model"
    model.save(folder)
    return Path(folder)


@pytest.fixture(scope="session")
def model(model_folder):
    """The trained model, loaded. Not to be changed."""
    from c2s.models.directory import load_model

    return load_model(model_folder, device="cpu")


#: Which part of the pancreas each type is taken to be from, for the task that names the tissue of a sample.
REGIONS = {"acinar": "exocrine pancreas", "ductal": "exocrine pancreas"}
#: Sets of genes that are among those of `cut_genes`, by name.
GENE_SETS = {
    "islet hormones": ["INS", "GCG", "SST", "TTR", "IAPP"],
    "digestive enzymes": ["PRSS1", "PRSS2", "CTRB1", "CTRB2", "CPA1", "CPB1", "PNLIP", "CELA3A"],
    "keratins": ["KRT7", "KRT8", "KRT18", "KRT19"],
    "large ribosomal subunit": ["RPL10", "RPL11", "RPL13", "RPL15", "RPL19", "RPL3"],
}


@pytest.fixture(scope="session")
def gene_sets():
    """The gene sets that the model of samples was trained on: genes by name."""
    return GENE_SETS


@pytest.fixture
def regions(cut):
    """The cells of `cut` with the part of the pancreas that the model of samples was told they are from."""
    adata = cut.copy()
    adata.obs["region"] = [REGIONS.get(t, "islet") for t in adata.obs["cell_type"]]
    return adata


class SampleExamples:
    """Training examples of samples of cells and of gene sets, drawn from `cut`: what `train` asks of a stream."""

    task_ids = ("gene_set_enum", "gene_set_name", "sample_cell_types", "tissue")

    def __init__(self, table, prompts, n_examples):
        from c2s.cells.ranked import rank_matrix

        self.prompts, self.n_examples = prompts, n_examples
        self.cells = rank_matrix(table.counts, table.vocabulary, table.cell_ids, top_k=10)
        self.types = table.fields["cell_type"]

    def __len__(self):
        return self.n_examples

    def draw(self, positions):
        return [self.example(int(p)) for p in positions]

    def example(self, position):
        from c2s.tasks.registry import get_task

        rng = np.random.default_rng(position)
        task = get_task(self.task_ids[position % 4])
        wording = self.prompts.wording(task.id)
        if task.kind == "gene_set":
            name = list(GENE_SETS)[rng.integers(len(GENE_SETS))]
            cells = self.cells.vocabulary.columns(GENE_SETS[name])
            values = {"gene_set": name}
            if not task.generates:
                cells = rng.permutation(cells)
        else:
            regions = np.array([REGIONS.get(t, "islet") for t in self.types])
            region = rng.choice(["islet", "exocrine pancreas"])
            there = regions == region if task.id == "tissue" else np.ones(len(regions), bool)
            rows = rng.choice(np.flatnonzero(there), size=rng.integers(2, 4), replace=False)
            least = min(len(self.cells.to_columns(r)) for r in rows)
            cells = [self.cells.to_columns(r)[:least] for r in rows]
            types = self.types[rows].tolist()
            values = {"organism": ORGANISM, "tissue": region, "cell_types": types}
        return task.example(wording, wording.pick(rng), values, cells)


@pytest.fixture(scope="session")
def sample_examples(cell_table):
    """Return a function that draws examples of samples of cells and of gene sets."""
    from c2s.tasks.prompts import load_prompts

    def draw(n_examples):
        return SampleExamples(cell_table, load_prompts("c2s"), n_examples).draw(range(n_examples))

    return draw


@pytest.fixture(scope="session")
def sample_model_folder(tmp_path_factory, cell_table, cut_genes, make_network, make_card):
    """A model directory trained for seconds on samples of cells and on gene sets. Not to be changed."""
    from c2s.models.directory import Model
    from c2s.tasks.prompts import PromptPack, load_prompts
    from c2s.tokens.tokenizer import CellTokenizer, add_gene_tokens, train_text_tokenizer
    from c2s.training.sft import Optimisation, train

    # Two of the twelve wordings, so that they are learned in seconds.
    texts = {t: load_prompts("c2s").wording(t).to_dict() for t in SampleExamples.task_ids}
    texts = {t: {**text, "prompts": text["prompts"][:2]} for t, text in texts.items()}
    stream = SampleExamples(cell_table, PromptPack.restore("two", texts), 200 * 16)
    english = [
        "".join(part for part in [*e.prompt, *e.response] if isinstance(part, str))
        for e in stream.draw(range(200))
    ]
    backend = train_text_tokenizer(english, 700)
    add_gene_tokens(backend, cut_genes)
    tokenizer = CellTokenizer(backend, cut_genes, "genes")
    known = {"cell_type": list(TYPES), "organism": [ORGANISM]}
    card = make_card(
        tokenizer, tasks=list(stream.task_ids), prompts="two", wording=texts, top_k=10,
        conditions={**known, "tissue": ["islet", "exocrine pancreas"]},
    )  # fmt: skip
    network = make_network("gpt_neox", tokenizer, hidden=48, spread=0.02, context=200)
    model = Model(network, tokenizer, card)
    train(
        model, stream, Optimisation(steps=200, batch_size=16, learning_rate=5e-3), device="cpu"
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("samples") / "model"
    model.save(folder)
    return Path(folder)


@pytest.fixture(scope="session")
def sample_model(sample_model_folder):
    """The model of samples and gene sets, loaded. Not to be changed."""
    from c2s.models.directory import load_model

    return load_model(sample_model_folder, device="cpu")
