"""A recipe says what each field is, and one that cannot work names the field, the value and what is right."""

import pytest
import yaml

from c2s.common.config import Config
from c2s.common.errors import InputError, UsageError
from c2s.corpus.recipe import FIELDS, CorpusRecipe, read_recipe
from c2s.tasks.registry import TASKS

BASE = {"sources": [{"data": "*.h5ad"}]}


@pytest.fixture
def read(tmp_path):
    def run(**changes):
        path = tmp_path / "r.yaml"
        path.write_text(yaml.safe_dump(BASE | changes))
        return read_recipe(path)

    return run


def models(model):
    """Return a configuration and all that are nested in it."""
    from typing import get_args

    found = {model}
    waiting = [f.annotation for f in model.model_fields.values()]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, Config) and kind not in found:
            found.add(kind)
            waiting += [f.annotation for f in kind.model_fields.values()]
        waiting += list(get_args(kind))
    return sorted(found, key=lambda m: m.__name__)


def test_every_field_is_described():
    found = models(CorpusRecipe)
    assert {"QualityControl", "SourceRecipe", "SplitRecipe", "TaskRecipe", "TeacherConfig"} <= {
        m.__name__ for m in found
    }
    for model in found:
        assert model.__doc__
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            assert field.description.endswith((".", "…}")) or "…" in field.description, (
                f"{model.__name__}.{name}"
            )


def test_defaults_are_those_of_the_paper(read):
    """SPEC §2 and §4.1: all tasks; 100 to 2,048 genes of one cell; 5 to 20 cells of 100 to 400 genes; 8,192 tokens."""
    recipe = read()
    assert recipe.task_ids("single", "multi", "gene_set") == list(TASKS)
    assert len(TASKS) == 12
    for task, spec in TASKS.items():
        assert recipe.genes_of(task) == ((100, 400) if spec.kind == "multi" else (100, 2048))
        assert recipe.cells_of(task) == ((5, 20) if spec.kind == "multi" else (1, 1))
    assert recipe.context == 8192
    assert recipe.samples_per_cell == 3
    assert recipe.most_genes == 2048


def test_a_task_has_its_own_ranges_and_weight(read):
    recipe = read(
        tasks={
            "tissue": {"weight": 7, "genes": [10, 20], "cells": [2, 2]},
            "mc_lm": None,
            "sc_lm": {},
        }
    )
    assert recipe.weight_of("tissue") == 7
    assert recipe.genes_of("tissue") == (10, 20)
    assert recipe.cells_of("tissue") == (2, 2)
    assert recipe.weight_of("sc_lm") == 1
    assert recipe.weight_of("mc_lm") == pytest.approx((1 / 12.5) ** 0.5)
    assert recipe.task_ids("multi") == ["mc_lm", "tissue"]
    assert read(tasks={"tissue": {"genes": [10, 20]}}, sentence_genes=5).most_genes == 20
    assert read(tasks={"gene_set_name": None}, sentence_genes=5).most_genes == 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sources": []}, "sources = []: at least one is expected"),
        (
            {"sources": "a.h5ad"},
            "sources = 'a.h5ad': a list of values is expected, such as '- value'",
        ),
        ({"source": 1}, "unknown field 'source'; did you mean 'sources'?"),
        ({"sources": [{"dta": "x"}]}, "the field 'sources.0.data' is missing"),
        (
            {"sources": [{"data": "x", "kind": "loom"}]},
            "sources.0.kind = 'loom': input should be 'auto' or 'soma'",
        ),
        (
            {"sources": [{"data": "x", "columns": {"celltype": "y"}}]},
            "'celltype': input should be 'organism', 'tissue'",
        ),
        (
            {"sources": [{"data": "x", "values": {"donor": 3}}]},
            "sources.0.values.donor = 3: input should be a valid string",
        ),
        (
            {"sources": [{"data": "x", "columns": {"donor": "d"}, "values": {"donor": "e"}}]},
            "'donor' is given as a column and as a value; give one",
        ),
        (
            {"tasks": {"cell_tipe": None}},
            "tasks: there is no task 'cell_tipe'; did you mean 'cell_type'?",
        ),
        (
            {"tasks": {"poetry!": None}},
            "tasks: there is no task 'poetry!'; there are: sc_lm, cell_type",
        ),
        ({"tasks": {}}, "tasks = {}: at least one is expected"),
        (
            {"tasks": {"tissue": {"weight": 0}}},
            "tasks.tissue.weight = 0: input should be greater than 0",
        ),
        ({"tasks": {"tissue": {"wieght": 1}}}, "unknown field 'tasks.tissue.wieght'"),
        (
            {"tasks": {"tissue": {"genes": [9, 3]}}},
            "tasks.tissue.genes is 9 to 3; expected 1 ≤ fewest ≤ most",
        ),
        (
            {"tasks": {"tissue": {"cells": [0, 3]}}},
            "tasks.tissue.cells is 0 to 3; expected 1 ≤ fewest ≤ most",
        ),
        (
            {"tasks": {"sc_lm": {"cells": [2, 3]}}},
            "tasks.sc_lm.cells does nothing, for the task is of one cell",
        ),
        ({"tasks": {"gene_set_name": {"weight": 2}}}, "tasks.gene_set_name.weight does nothing"),
        ({"single_genes": [50, 20]}, "single_genes is 50 to 20"),
        ({"single_genes": [50]}, "single_genes.1"),
        ({"multi_cells": "a"}, "multi_cells = 'a': a list of values is expected"),
        (
            {"samples_per_cell": -1},
            "samples_per_cell = -1: input should be greater than or equal to 0",
        ),
        ({"context": 10}, "context = 10: input should be greater than or equal to 64"),
        ({"unit_cells": 1}, "unit_cells = 1: "),
        ({"ties": "none"}, "ties = 'none': input should be 'seeded' or 'alphabetical'"),
        ({"tokens": "words"}, "tokens = 'words': input should be"),
        ({"engine": "dask"}, "engine = 'dask': input should be 'processes' or 'ray'"),
        ({"seed": -1}, "seed = -1: "),
        ({"seed": 1.5}, "seed = 1.5: "),
        (
            {"split": {"fractions": [0.5, 0.1, 0.1]}},
            "the shares of train, val and test must be ≥ 0 and sum to 1",
        ),
        (
            {"split": {"fractions": [1.5, -0.5, 0]}},
            "the shares of train, val and test must be ≥ 0 and sum to 1",
        ),
        (
            {"split": {"few_donors": "drop"}},
            "split.few_donors = 'drop': input should be 'cells' or 'train'",
        ),
        ({"quality": {"min_genes": 0}}, "quality.min_genes = 0"),
        ({"quality": {"max_pct_mt": 101}}, "quality.max_pct_mt = 101"),
        ({"quality": {"max_genes": 100}}, "max_genes 100 is below min_genes 200"),
        ({"paraphrases": 3}, "paraphrases = 3 needs the field 'teacher', which is missing"),
        (
            {"paraphrases": 3, "teacher": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}},
            "paraphrases = 3 needs the field 'abstracts', which is missing",
        ),
    ],
)
def test_what_cannot_work_is_named_in_one_line(read, tmp_path, changes, says):
    with pytest.raises(UsageError) as caught:
        read(**changes)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'r.yaml'}: ")
    assert says in message
    assert "\n" not in message
    assert len(message) < len(str(tmp_path)) + 260


def test_files_that_are_no_recipe(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read"):
        read_recipe(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="is a folder; give the recipe"):
        read_recipe(tmp_path)
    (tmp_path / "r.yaml").write_text("a: [")
    with pytest.raises(InputError, match="not valid YAML"):
        read_recipe(tmp_path / "r.yaml")


def test_the_digest_is_of_what_decides_the_bytes(read):
    digest = read().digest()
    assert read(engine="ray").digest() == digest
    assert read(abstracts="a.jsonl").digest() != digest
    teacher = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}
    assert read(teacher=teacher).digest() == digest
    assert read(seed=1).digest() != digest
    assert read(context=4096).digest() != digest
    assert read(tasks=dict.fromkeys(TASKS)).digest() == digest


def test_what_is_written_beside_a_corpus_can_be_read_again(corpus, tmp_path):
    manifest_recipe = read_recipe(corpus / "recipe.yaml")
    original = yaml.safe_load((corpus / "recipe.yaml").read_text())
    assert manifest_recipe.deciding() == CorpusRecipe.model_validate(original).deciding()
    assert manifest_recipe.context == 900


def test_all_fields_have_a_column_by_default():
    from c2s.corpus.recipe import DEFAULT_COLUMNS

    assert set(DEFAULT_COLUMNS) == set(FIELDS)
    assert DEFAULT_COLUMNS["donor"] == ("donor_id", "donor")
