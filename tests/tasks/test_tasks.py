"""Tasks: what is asked, what the answer is, and how an answer is read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.tasks.gene_sets import GENE_SET_ENUMERATION, GENE_SET_NAMING
from c2s.tasks.multi_cell import (
    CONDITIONAL_SAMPLE_CELL_TYPE,
    CONDITIONAL_SAMPLE_TISSUE,
    SAMPLE_CELL_TYPES,
    TISSUE,
)
from c2s.tasks.prompts import TaskWording, Template, load_prompts
from c2s.tasks.registry import TASKS, get_task
from c2s.tasks.single_cell import CELL_TYPE, CONDITIONAL_CELL, SINGLE_CELL_MODELING

LABELS = ["beta", "CD4-positive T cell", "t_cell", "NK cell", "Malassezia sp."]
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.id)
every_wording = pytest.mark.parametrize(
    ("task", "number"),
    [
        (task, i)
        for task in TASKS.values()
        for i in range(len(load_prompts().wording(task.id).prompts))
    ],
    ids=lambda value: getattr(value, "id", value),
)

#: Texts and numbers that are found nowhere else in a prompt.
PLANTED = {
    "organism": "Organismus",
    "tissue": "Tissueword",
    "cell_type": "Celltypeword",
    "abstract": "Abstractword. Second sentence.",
    "gene_set": "GENESET_NAME",
    "num_genes": 271,
    "num_cells": 3,
    "cell_types": ["Typeone", "Typetwo", "Typethree"],
}
#: What Table 1 of the paper gives and asks for (SPEC §4.1), beside the organism and the numbers.
TABLE_1 = {
    "sc_lm": ("single", [], "cell"),
    "cell_type": ("single", ["cell"], "Celltypeword"),
    "cond_cell": ("single", ["Celltypeword"], "cell"),
    "mc_lm": ("multi", [], "cells"),
    "tissue": ("multi", ["cells"], "Tissueword"),
    "sample_cell_types": ("multi", ["cells"], "Typeone Typetwo Typethree"),
    "cond_sample_tissue": ("multi", ["Tissueword"], "cells"),
    "cond_sample_cell_type": ("multi", ["Typeone", "Typetwo", "Typethree"], "cells"),
    "cond_sample_abstract": ("multi", ["Abstractword. Second sentence."], "cells"),
    "nl_interpretation": ("multi", ["cells"], "Abstractword. Second sentence."),
    "gene_set_enum": ("gene_set", ["GENESET_NAME"], "cell"),
    "gene_set_name": ("gene_set", ["cell"], "GENESET_NAME"),
}


def planted_cells(task):
    return [30, 31, 32] if task.kind == "multi" else [30]


def opaque(side):
    return [part for part in side if not isinstance(part, str)]


def english(side):
    return "".join(part for part in side if isinstance(part, str))


def wording_of(task):
    return load_prompts("c2s").wording(task.id)


class TestEveryWording:
    def test_tasks_are_those_of_the_paper_in_its_order(self):
        assert list(TASKS) == list(TABLE_1)
        assert {t: task.kind for t, task in TASKS.items()} == {
            t: row[0] for t, row in TABLE_1.items()
        }

    @every_wording
    def test_gives_what_the_paper_gives_and_nothing_else(self, task, number):
        _, given, answer = TABLE_1[task.id]
        prompt, response = task.parts(wording_of(task), number, PLANTED, planted_cells(task))
        text = english(prompt)
        given = [g for g in given if g not in ("cell", "cells")]
        if task.kind != "gene_set":
            given.append("Organismus")
        for sentinel in given:
            assert text.count(sentinel) == 1, sentinel
            text = text.replace(sentinel, "")
        assert text.count("271") == 1
        assert task.kind != "multi" or any(
            c == "3" for c in text.replace("Cell 3:", "").replace("271", "")
        )
        for others in PLANTED.values():
            for sentinel in others if isinstance(others, list) else [others]:
                assert isinstance(sentinel, int) or sentinel not in text, sentinel
        if answer in ("cell", "cells"):
            assert (opaque(prompt), opaque(response)) == ([], planted_cells(task))
        else:
            assert (opaque(prompt), opaque(response)) == (planted_cells(task), [])
            for word in answer.split() if task.id == "sample_cell_types" else [answer]:
                assert response[0].count(word) == 1

    @every_wording
    def test_is_english_a_tokenizer_can_join(self, task, number):
        prompt, response = task.parts(wording_of(task), number, PLANTED, planted_cells(task))
        for side in (prompt, response):
            assert isinstance(side[0], str)
            for part, following in zip(side, [*side[1:], ""], strict=True):
                assert isinstance(part, str) != isinstance(following, str) or following == ""
                if isinstance(part, str) and not isinstance(following, str):
                    assert part.endswith(" ")  # a gene is always behind one space
                    assert not part.removesuffix(" ")[-1:].isspace()
        assert english(prompt) == english(prompt).strip()
        assert isinstance(prompt[-1], str)
        assert response[0].startswith(" ")
        assert not response[0].startswith("  ")
        assert "  " not in english(prompt)

    @every_task
    def test_passes_the_check_of_packs(self, task):
        task.check_wording(wording_of(task), "c2s")


class TestNeeds:
    @every_task
    def test_each_field_that_a_task_needs_is_used_and_no_other(self, task):
        fields = {"organism", "cell_type", "tissue", "abstract", "gene_set"}
        wording = wording_of(task)
        numbers = {"num_genes": 1, "num_cells": 3}

        def writes(missing):
            values = {k: v for k, v in PLANTED.items() if k not in missing}
            for i in range(len(wording.prompts)):
                task.parts(wording, i, {**numbers, **values}, planted_cells(task))

        unneeded = fields - set(task.needs)
        writes(unneeded | ({"cell_types"} if "cell_type" in unneeded else set()))
        for field in task.needs:
            plural = {"cell_type": {"cell_type", "cell_types"}}.get(field, {field})
            with pytest.raises(UsageError, match="which was not given"):
                writes(plural)

    def test_by_hand(self):
        assert set(SAMPLE_CELL_TYPES.needs) == {"organism", "cell_type"}
        assert set(CONDITIONAL_SAMPLE_CELL_TYPE.needs) == {"organism", "cell_type"}
        assert set(TASKS["nl_interpretation"].needs) == {"organism", "abstract"}
        assert set(TASKS["mc_lm"].needs) == {"organism"}
        assert GENE_SET_NAMING.needs == ("gene_set",)


class TestExamplesByHand:
    def test_single_cell_modeling(self):
        prompt, response = SINGLE_CELL_MODELING.parts(
            wording_of(SINGLE_CELL_MODELING),
            2,
            {"organism": "Mus musculus", "num_genes": 5},
            [9],
        )
        assert prompt == ["Write one Mus musculus cell as a cell sentence of 5 genes:"]
        assert response == [" ", 9]

    def test_tissue(self):
        values = {"organism": "Homo sapiens", "tissue": "liver", "num_genes": 2, "num_cells": 2}
        prompt, response = TISSUE.parts(wording_of(TISSUE), 4, values, (17, 4))
        assert prompt == [
            "Annotate the sample below. Organism: Homo sapiens. Cells: 2. Genes of each cell: 2.\nCell 1: ",
            17,
            "\nCell 2: ",
            4,
            "\nTissue label:",
        ]
        assert response == [" liver"]

    def test_cell_types_of_a_sample_and_back(self):
        values = {
            "organism": "Homo sapiens",
            "num_genes": 2,
            "num_cells": 2,
            "cell_types": ["beta", "alpha"],
        }
        prompt, response = SAMPLE_CELL_TYPES.parts(wording_of(SAMPLE_CELL_TYPES), 5, values, [0, 0])
        assert prompt == [
            "Read these 2 cell sentences of 2 genes (Homo sapiens):\nCell 1: ",
            0,
            "\nCell 2: ",
            0,
            "\nThe cells are of these types:",
        ]
        assert response == [" Cell 1: beta\nCell 2: alpha"]
        prompt, response = CONDITIONAL_SAMPLE_CELL_TYPE.parts(
            wording_of(CONDITIONAL_SAMPLE_CELL_TYPE), 9, values, [5, 6]
        )
        assert prompt == [
            "What would the 2 highest genes of these 2 Homo sapiens cells be?\n"
            "Cell 1: beta\nCell 2: alpha\nAnswer:"
        ]
        assert response == [" Cell 1: ", 5, "\nCell 2: ", 6]

    def test_gene_sets(self):
        values = {"gene_set": "HALLMARK_APOPTOSIS", "num_genes": 3}
        listed = GENE_SET_ENUMERATION.parts(wording_of(GENE_SET_ENUMERATION), 1, values, [8])
        assert listed == (["Gene set HALLMARK_APOPTOSIS, 3 genes:"], [" ", 8])
        named = GENE_SET_NAMING.parts(wording_of(GENE_SET_NAMING), 4, values, [8])
        assert named == (["Gene set of 3 genes: ", 8, "\nTitle:"], [" HALLMARK_APOPTOSIS"])


class TestWhatIsRefused:
    sample = {"organism": "Homo sapiens", "num_genes": 2, "num_cells": 2}

    @pytest.mark.parametrize("cells", [[], [1, 2]])
    @pytest.mark.parametrize("task", [CELL_TYPE, GENE_SET_NAMING], ids=lambda task: task.id)
    def test_another_number_of_cells_than_one(self, task, cells):
        with pytest.raises(UsageError, match=f"takes one cell or gene set, found {len(cells)}"):
            task.parts(wording_of(task), 0, {**PLANTED, **self.sample}, cells)

    def test_types_of_more_cells_than_there_are(self):
        with pytest.raises(UsageError, match="found 3 cell types for 2 cells"):
            SAMPLE_CELL_TYPES.parts(
                wording_of(SAMPLE_CELL_TYPES),
                0,
                {**self.sample, "cell_types": ["a", "b", "c"]},
                [1, 2],
            )

    def test_one_array_for_a_sample(self):
        wording = wording_of(TISSUE)
        with pytest.raises(UsageError, match="'tissue' takes a list of cells, found one array"):
            TISSUE.example(wording, wording.prompts[0], PLANTED, np.arange(3))

    def test_a_sample_without_its_layout(self):
        with pytest.raises(UsageError, match="give the wording that lays them out"):
            TISSUE.ask(wording_of(TISSUE).prompts[0], PLANTED, [np.arange(3)], 3)

    def test_cells_of_different_length(self):
        wording = wording_of(TISSUE)
        with pytest.raises(UsageError, match="found cells of 2 to 3 genes, expected one number"):
            TISSUE.example(wording, wording.prompts[0], PLANTED, [np.arange(3), np.arange(2)])

    @pytest.mark.parametrize(
        ("task", "prompt", "response", "said"),
        [
            (TISSUE, "{cells} {tissue}", "{tissue}", r"must not name {tissue} .* it is the answer"),
            (
                TISSUE,
                "{cells} {disease}",
                "{tissue}",
                r"must not name {disease} .* it has {cells}, {num_cells}",
            ),
            (TISSUE, "{organism}", "{tissue}", "lacks {cells}"),
            (TISSUE, "{cells}", "{cells}", "must have the place {tissue} once"),
            (TISSUE, "{cells}", "{tissue} {tissue}", "must have the place {tissue} once"),
            (CONDITIONAL_CELL, "{cell_sentence}", "{cell_sentence}", "it is the answer"),
            (CELL_TYPE, "{cell_sentence} {num_cells}", "{cell_type}", "must not name {num_cells}"),
            (GENE_SET_ENUMERATION, "{gene_set}", "{gene_set}", "must have the place {genes} once"),
        ],
    )
    def test_wording_of_another_task(self, task, prompt, response, said):
        wording = TaskWording((Template.parse(prompt),), Template.parse(response))
        with pytest.raises(InputError, match=said) as error:
            task.check_wording(wording, "own.toml")
        assert str(error.value).startswith("own.toml: ")
        assert "\n" not in str(error.value)

    def test_an_unknown_task_is_answered_with_those_there_are(self):
        with pytest.raises(
            UsageError, match="no task 'tisue'; there are: sc_lm, cell_type, .*nearest: tissue"
        ):
            get_task("tisue")


class TestExample:
    values = {"organism": "Homo sapiens", "cell_type": "beta"}
    cell = np.array([3, 1, 2], dtype=np.int32)

    def test_annotation_shows_the_cell_and_answers_the_label(self):
        wording = wording_of(CELL_TYPE)
        example = CELL_TYPE.example(wording, wording.prompts[0], self.values, self.cell)
        before, cell, behind = example.prompt
        assert example.task == "cell_type"
        assert cell is self.cell
        assert " 3 " in before
        assert "Homo sapiens" in before + behind
        assert "beta" not in before + behind
        assert example.response == [" beta"]

    def test_generation_names_the_type_and_answers_the_cell(self):
        wording = wording_of(CONDITIONAL_CELL)
        example = CONDITIONAL_CELL.example(wording, wording.prompts[0], self.values, self.cell)
        (prompt,) = example.prompt
        assert " 3 " in prompt
        assert "beta" in prompt
        space, cell = example.response
        assert (space, cell.tolist()) == (" ", [3, 1, 2])

    def test_generation_is_not_shown_a_cell(self):
        template = wording_of(CONDITIONAL_CELL).prompts[0]
        asked = CONDITIONAL_CELL.ask(template, self.values, None, 7)
        assert asked == CONDITIONAL_CELL.ask(template, self.values, self.cell, 7)
        assert " 7 " in asked[0]

    @every_wording
    def test_is_what_parts_makes_and_its_prompt_what_ask_asks(self, task, number):
        wording = wording_of(task)
        genes = {i: np.array([i, 2, 5], np.int32) for i in planted_cells(task)}
        arrays = list(genes.values())
        values = {**PLANTED, "num_genes": 3}
        prompt, response = task.parts(wording, number, values, list(genes))
        texts = {k: v for k, v in PLANTED.items() if not k.startswith("num_")}
        template = wording.prompts[number]
        example = task.example(wording, template, texts, arrays)
        asked = task.ask(template, {**texts, "num_cells": 3}, arrays, 3, wording)

        def shown(side):
            return [p if isinstance(p, str) else genes[p].tolist() for p in side]

        def seen(side):
            return [p if isinstance(p, str) else p.tolist() for p in side]

        assert seen(example.prompt) == seen(asked) == shown(prompt)
        assert seen(example.response) == shown(response)

    def test_a_sample_is_asked_for_without_any_cell(self):
        wording = wording_of(CONDITIONAL_SAMPLE_TISSUE)
        values = {"organism": "Homo sapiens", "tissue": "lung", "num_cells": 4}
        (text,) = CONDITIONAL_SAMPLE_TISSUE.ask(wording.prompts[2], values, None, 50, wording)
        assert text == "Generate 4 cells of Homo sapiens lung, 50 genes a cell in rank order:"


class TestLabel:
    @pytest.mark.parametrize(
        ("text", "label"),
        [
            (" beta", "beta"),
            ("beta.", "beta"),
            (" Beta .", "beta"),
            ("BETA.<|endoftext|>", "beta"),
            ("cd4-positive t cell.<ctrl100>", "CD4-positive T cell"),
            ("NK cell<eos>\n", "NK cell"),
            ("malassezia SP.", "Malassezia sp."),
            ("Malassezia sp..", "Malassezia sp."),
            ("beta cell", None),
            ("alpha", None),
            ("bet", None),
            ("", None),
            (".", None),
        ],
    )
    def test_an_answer_is_read_as_a_label_or_as_none(self, text, label):
        assert CELL_TYPE.parse_label(text, LABELS) == label

    def test_labels_that_differ_in_case_are_kept_apart(self):
        assert CELL_TYPE.parse_label(" Th1.", ["th1", "Th1", "TH1"]) == "Th1"
        assert CELL_TYPE.parse_label(" th1", ["th1", "Th1"]) == "th1"

    def test_of_each_cell(self):
        wording = wording_of(SAMPLE_CELL_TYPES)
        text = " Cell 1: BETA\nCell 3: Malassezia sp.\nCell 4: unheard of<eos>"
        assert SAMPLE_CELL_TYPES.parse_labels(text, 4, wording) == [
            "BETA",
            None,
            "Malassezia sp.",
            "unheard of",
        ]
        assert SAMPLE_CELL_TYPES.parse_labels(text, 4, wording, LABELS) == [
            "beta",
            None,
            "Malassezia sp.",
            None,
        ]

    @given(
        types=st.lists(
            st.sampled_from([*LABELS, "Cell 2: odd", "T cell, CD8+"]), min_size=1, max_size=20
        ),
        tail=st.sampled_from(["", ".", " !"]),
    )
    def test_what_the_task_writes_is_read_back(self, types, tail):
        ours = wording_of(SAMPLE_CELL_TYPES)
        wording = TaskWording(ours.prompts, Template.parse(f" {{cell_types}}{tail}"))
        values = {**PLANTED, "cell_types": types, "num_cells": len(types)}
        _, response = SAMPLE_CELL_TYPES.parts(wording, 0, values, range(len(types)))
        text = f"{response[0]}<|endoftext|>"
        assert SAMPLE_CELL_TYPES.parse_labels(text, len(types), wording) == types


GENES = GeneVocabulary(["INS", "GCG", "SST", "HLA-A", "MT-CO1", "7SK", "AC004556.1", "C10ORF10"])


class TestCells:
    def test_generated_sentences_are_read_back(self):
        genes = GeneVocabulary(["INS", "GCG", "SST"])
        parsed = CONDITIONAL_CELL.parse_cells([" SST INS GCG.", "INS NOPE INS"], genes)
        assert parsed.genes.tolist() == [2, 0, 1, 0]
        assert parsed.ranks.tolist() == [0, 1, 2, 1]  # INS at 0 and 2: mean 1
        assert parsed.n_invalid.tolist() == [0, 1]

    def test_a_sample_has_the_cells_that_were_asked_for(self):
        wording = wording_of(CONDITIONAL_SAMPLE_TISSUE)
        text = " Cell 1: INS NOPE GCG\nCell 3: SST.\nCell 5: INS<|endoftext|>"
        parsed = CONDITIONAL_SAMPLE_TISSUE.parse_sample(text, 4, GENES, wording)
        assert parsed.indptr.tolist() == [0, 2, 2, 3, 3]
        assert parsed.genes.tolist() == [0, 1, 2]
        assert parsed.ranks.tolist() == [0, 2, 0]
        assert parsed.n_words.tolist() == [3, 0, 1, 0]
        assert parsed.n_invalid.tolist() == [1, 0, 0, 0]

    @pytest.mark.parametrize(
        "layout", [{}, {"each_cell": "Cell {number}:\n{cell_sentence}.\n", "response": "{cells}."}]
    )
    @given(
        sample=st.lists(
            st.permutations(range(len(GENES))).map(lambda order: order[:3]), min_size=1, max_size=20
        )
    )
    def test_what_the_task_writes_is_read_back(self, layout, sample):
        ours = wording_of(CONDITIONAL_SAMPLE_TISSUE).to_dict()
        wording = TaskWording.from_dict({**ours, **layout}, "test")
        values = {**PLANTED, "num_cells": len(sample)}
        _, response = CONDITIONAL_SAMPLE_TISSUE.parts(wording, 0, values, range(len(sample)))
        text = "".join(
            p if isinstance(p, str) else " ".join(GENES.words[g] for g in sample[p])
            for p in response
        )
        parsed = CONDITIONAL_SAMPLE_TISSUE.parse_sample(text, len(sample), GENES, wording)
        assert parsed.genes.reshape(-1, 3).tolist() == [list(cell) for cell in sample]
        assert parsed.ranks.tolist() == [0, 1, 2] * len(sample)
        assert parsed.n_invalid.sum() == 0


class TestGenes:
    @pytest.mark.parametrize(
        ("text", "genes"),
        [
            (" TP53 MDM2 CDKN1A", ["TP53", "MDM2", "CDKN1A"]),
            ("TP53, MDM2 and CDKN1A.", ["TP53", "MDM2", "CDKN1A"]),
            ("tp53,MDM2;\nTP53 AND<eos>", ["TP53", "MDM2", "AND"]),
            ("AC004556.1, HLA-A.<|endoftext|>", ["AC004556.1", "HLA-A"]),
            (" . ", []),
            ("", []),
        ],
    )
    def test_of_an_answer(self, text, genes):
        assert GENE_SET_ENUMERATION.parse_genes(text) == genes

    @given(
        genes=st.lists(st.sampled_from(GENES.words), min_size=1, unique=True),
        between=st.sampled_from([" ", ", ", ",", " and ", "\n"]),
        tail=st.sampled_from(["", ".", " .", "<ctrl100>", "\n"]),
    )
    def test_are_read_back_however_they_are_listed(self, genes, between, tail):
        assert GENE_SET_ENUMERATION.parse_genes(" " + between.join(genes) + tail) == genes

    def test_what_the_task_writes_is_read_back(self):
        wording = wording_of(GENE_SET_ENUMERATION)
        _, response = GENE_SET_ENUMERATION.parts(wording, 0, PLANTED, [0])
        text = "".join(p if isinstance(p, str) else " ".join(GENES.words) for p in response)
        assert GENE_SET_ENUMERATION.parse_genes(text) == list(GENES.words)
