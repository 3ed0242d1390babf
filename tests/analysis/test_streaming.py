"""From file to file: the same as in memory, whatever is broken off, in memory of a chunk."""

import signal
import subprocess
import sys
import weakref

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import c2s
from c2s.analysis.annotate import Annotation
from c2s.cells.readers import is_current_h5ad
from c2s.common.errors import C2SError, C2SWarning, InputError, UsageError
from c2s.corpus.sources.stored import StoredSource
from c2s.decoding.engine import TransformersEngine
from c2s.knowledge.ontology import Ontology, Term
from c2s.models.directory import load_model

CHUNK = 8


@pytest.fixture
def few(cut):
    """30 cells of five types, so four chunks, the last of them smaller."""
    part = cut[::5].copy()
    part.obsm["X_other"] = np.arange(60.0).reshape(30, 2)
    part.layers["other"] = part.X[::-1].copy()
    return part


@pytest.fixture
def source(few, tmp_path):
    few.write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.h5ad"


OPTIONS = {"top_n": 2, "entropy_key": "h", "min_confidence": 0.7, "probabilities_key": "p"}


@pytest.fixture
def wanted(few, model):
    """The same in memory."""
    c2s.tl.annotate(few, model, chunk_size=CHUNK, **OPTIONS)
    return few


def annotated(source, out, model, **options):
    done = c2s.tl.annotate_file(source, out, model, chunk_size=CHUNK, **{**OPTIONS, **options})
    assert not out.with_name(f"{out.name}.parts").exists()
    return done, ad.read_h5ad(out)


def assert_same(found, wanted):
    """Equal to the last bit, all of it."""
    pd.testing.assert_frame_equal(found.obs, wanted.obs, check_exact=True)
    pd.testing.assert_frame_equal(found.var, wanted.var, check_exact=True)
    assert set(found.obsm) == set(wanted.obsm)
    for key, value in wanted.obsm.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(found.obsm[key], value, check_exact=True)
        else:
            np.testing.assert_array_equal(found.obsm[key], value)
    for a, b in ((found.X, wanted.X), (found.layers["other"], wanted.layers["other"])):
        assert (sp.csr_matrix(a) != sp.csr_matrix(b)).nnz == 0
    assert list(found.uns["c2s"]) == list(wanted.uns["c2s"])


def as_it_is(adata):
    return {}


def by_column(adata):
    adata.X = adata.X.tocsc()
    return {}


def dense(adata):
    adata.X = adata.X.toarray()
    return {}


def raw(adata):
    adata.raw = adata[:, ::-1].copy()
    adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)
    return {"layer": "raw"}


def layer(adata):
    return {"layer": "other"}


class TestTheSameAsInMemory:
    @pytest.mark.parametrize("change", [as_it_is, by_column, dense, raw, layer])
    def test_annotation(self, few, model, tmp_path, out, change):
        where = change(few)
        few.write_h5ad(tmp_path / "in.h5ad")
        before = (tmp_path / "in.h5ad").read_bytes()
        done, found = annotated(tmp_path / "in.h5ad", out, model, **where)
        c2s.tl.annotate(few, model, chunk_size=CHUNK, **OPTIONS, **where)
        assert_same(found, few)
        parameters = few.uns["c2s"]["annotate"]["parameters"]
        assert list(found.uns["c2s"]["annotate"]["parameters"]["labels"]) == parameters["labels"]
        assert done.resumed == 0
        assert done.widths == {"p": 5, "c2s_cell_type_top": 4}
        pd.testing.assert_frame_equal(done.obs, found.obs)
        assert (tmp_path / "in.h5ad").read_bytes() == before

    @pytest.mark.parametrize("tokens", ["prompt", "cell"])
    def test_embedding(self, few, source, model, out, tokens):
        done = c2s.tl.embed_file(source, out, model, chunk_size=CHUNK, tokens=tokens)
        c2s.tl.embed(few, model, chunk_size=CHUNK, tokens=tokens)
        found = ad.read_h5ad(out)
        assert_same(found, few)
        assert done.widths == {"X_c2s": 48}
        # Over its own output, with what it wrote itself, and in place.
        c2s.tl.embed_file(out, out, model, chunk_size=CHUNK, tokens=tokens, seed=1)
        c2s.tl.embed(few, model, chunk_size=CHUNK, tokens=tokens, seed=1)
        assert_same(ad.read_h5ad(out), few)
        assert not np.array_equal(found.obsm["X_c2s"], few.obsm["X_c2s"])

    def test_the_size_of_chunks_does_not_matter(self, source, model, out, wanted):
        c2s.tl.annotate_file(source, out, model, chunk_size=11, **OPTIONS)
        found = ad.read_h5ad(out).obsm["p"]
        np.testing.assert_allclose(found, wanted.obsm["p"], atol=1e-5)

    def test_a_file_of_an_old_anndata(self, few, source, model, out):
        """Tables were compound arrays once, without attributes that say what they are."""
        with h5py.File(source, "r+") as file:
            for table in ("obs", "var"):
                index = [name.encode() for name in getattr(few, f"{table}_names")]
                del file[table]
                file[table] = np.array(index, dtype=[("index", f"S{max(map(len, index))}")])
            for key in list(file.attrs):
                del file.attrs[key]
        with pytest.raises(InputError, match=r"before 0.7 wrote it; .*write_h5ad"):
            annotated(source, out, model)
        assert not is_current_h5ad(source)

    def test_backed(self, few, source, model, wanted):
        before = source.read_bytes()
        backed = ad.read_h5ad(source, backed="r")
        c2s.tl.annotate(backed, model, chunk_size=CHUNK, **OPTIONS)
        c2s.tl.embed(backed, model, chunk_size=CHUNK)
        c2s.tl.embed(wanted, model, chunk_size=CHUNK)
        assert backed.isbacked
        with pytest.raises(UsageError, match="copy=True cannot copy a backed AnnData"):
            c2s.tl.embed(backed, model, copy=True)
        assert_same(backed.to_memory(), wanted)
        assert source.read_bytes() == before


SCRIPT = """
import os, signal, sys
import c2s
from c2s.analysis import streaming

put, done = streaming._Parts.put, []

def killed(self, start, columns):
    put(self, start, columns)
    done.append(start)
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

streaming._Parts.put = killed
source, out, model = sys.argv[1:]
c2s.tl.annotate_file(source, out, c2s.load_model(model, device="cpu"), chunk_size=8, **%r)
"""


class TestRestart:
    @pytest.fixture
    def asked(self, monkeypatch):
        """Return the first rows of the chunks that the model is asked about from now on."""
        starts, columns = [], Annotation.columns

        def watched(self, start, stop, progress=None):
            starts.append(start)
            return columns(self, start, stop, progress)

        monkeypatch.setattr(Annotation, "columns", watched)
        return starts

    @pytest.fixture
    def broken(self, source, out, model, monkeypatch):
        """A run that failed in its third chunk."""
        columns = Annotation.columns

        def fails(self, start, stop, progress=None):
            if start == 16:
                raise RuntimeError("broken off")
            return columns(self, start, stop, progress)

        with monkeypatch.context() as patch:
            patch.setattr(Annotation, "columns", fails)
            with pytest.raises(RuntimeError, match="broken off"):
                annotated(source, out, model)
        return out.with_name("out.h5ad.parts")

    def test_killed_and_started_again(self, source, out, model, model_folder, wanted, request):
        command = [sys.executable, "-c", SCRIPT % (OPTIONS,), source, out, model_folder]
        ended = subprocess.run(list(map(str, command)), check=False)
        assert ended.returncode == -signal.SIGKILL
        assert not out.exists()
        asked = request.getfixturevalue("asked")
        # Loaded again: the same model is known by its content.
        done, found = annotated(source, out, load_model(model_folder, device="cpu"))
        assert asked == [16, 24]
        assert done.resumed == 16
        assert_same(found, wanted)

    def test_the_same_terms_that_mean_other_labels_begin_anew(self, source, out, model, asked):
        """Both name the same terms; which label is which of them decides the sums."""
        names = ["cell", "P", "Q", "R", "S"]
        terms = [Term(f"X:{i}", n, ("X:0",) if i else ()) for i, n in enumerate(names)]
        one, other = (
            Ontology(terms, dict(zip(["acinar", "alpha", "beta", "delta"], ids, strict=True)))
            for ids in (["X:1", "X:2", "X:3", "X:4"], ["X:2", "X:1", "X:3", "X:4"])
        )
        labels = ["acinar", "alpha", "beta", "delta"]
        columns = Annotation.columns

        def fails(self, start, stop, progress=None):
            if start == 16:
                raise RuntimeError("broken off")
            return columns(self, start, stop, progress)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Annotation, "columns", fails)
            with pytest.raises(RuntimeError, match="broken off"):
                annotated(source, out, model, labels=labels, ontology=one)
        with pytest.warns(C2SWarning, match="run with another options"):
            _, found = annotated(source, out, model, labels=labels, ontology=other)
        assert asked[-4:] == [0, 8, 16, 24]
        rolled = found.obsm["c2s_cell_type_ancestors"]
        np.testing.assert_allclose(rolled["P"], found.obsm["p"]["alpha"])

    def test_a_model_without_its_weights_is_known_by_its_files(
        self, source, out, model, model_folder, wanted
    ):
        """As `c2s annotate --engine vllm` opens it: the engine reads the weights itself."""
        unread = load_model(model_folder, weights=False)
        _, found = annotated(source, out, unread, engine=TransformersEngine(model))
        np.testing.assert_array_equal(found.obsm["p"], wanted.obsm["p"])

    def test_a_batch_size_may_change(self, source, out, model, wanted, broken, asked):
        done, found = annotated(source, out, model, batch_size=1)
        assert (done.resumed, asked) == (16, [16, 24])
        np.testing.assert_allclose(found.obsm["p"], wanted.obsm["p"], atol=1e-5)

    @pytest.mark.parametrize("what", ["options", "input", "model", "chunk_size"])
    def test_another_run_begins_anew(
        self, few, source, out, model, model_folder, broken, asked, what
    ):
        options, chunk_size = dict(OPTIONS), CHUNK
        if what == "options":
            options["views"] = 2
        elif what == "input":
            few = few[::-1].copy()
            few.write_h5ad(source)
        elif what == "chunk_size":
            chunk_size = 15
        else:
            model = load_model(model_folder, device="cpu")
            model.network.get_output_embeddings().weight.data[:100] *= 1.5
        with pytest.warns(C2SWarning, match=rf"out.h5ad.parts: .* run with another {what};"):
            done = c2s.tl.annotate_file(source, out, model, chunk_size=chunk_size, **options)
        assert done.resumed == 0
        assert asked == list(range(0, 30, chunk_size))
        c2s.tl.annotate(few, model, chunk_size=chunk_size, **options)
        assert_same(ad.read_h5ad(out), few)

    def test_a_chunk_that_is_damaged_is_done_again(self, source, out, model, wanted, broken, asked):
        (broken / "rows-000000000008.h5").write_bytes(b"")
        assert_same(annotated(source, out, model)[1], wanted)
        assert asked == [8, 16, 24]

    def test_a_folder_of_something_else_is_left_alone(self, source, out, model):
        folder = out.with_name("out.h5ad.parts")
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
        with pytest.raises(UsageError, match="is not the work of an earlier run"):
            annotated(source, out, model)
        assert (folder / "notes.txt").read_text() == "mine"

    def test_a_failure_before_the_first_chunk_leaves_nothing(self, few, tmp_path, out, model):
        few.X.data[0] = -1
        few.write_h5ad(tmp_path / "in.h5ad")
        with pytest.raises(InputError, match="negative"):
            annotated(tmp_path / "in.h5ad", out, model)
        assert [path.name for path in tmp_path.iterdir()] == ["in.h5ad"]

    def test_a_file_that_changes_meanwhile(self, few, source, out, model, monkeypatch):
        columns = Annotation.columns

        def changes(self, start, stop, progress=None):
            if start == 24:
                source.touch()
            return columns(self, start, stop, progress)

        monkeypatch.setattr(Annotation, "columns", changes)
        with pytest.raises(InputError, match="in.h5ad: the file changed while it was read"):
            annotated(source, out, model)
        assert not out.exists()


def test_memory_is_that_of_a_chunk(source, out, model, monkeypatch):
    """Of all blocks that were read never more than two are alive: the one at hand and the one before."""
    alive, most, rows, read = [], [], [], StoredSource.read

    def watched(self, start, stop):
        block = read(self, start, stop)
        alive.append(weakref.ref(block))
        most.append(sum(each().shape[0] for each in alive if each() is not None))
        rows.append(stop - start)
        return block

    monkeypatch.setattr(StoredSource, "read", watched)
    monkeypatch.setattr(ad, "read_h5ad", None)
    c2s.tl.embed_file(source, out, model, chunk_size=4)
    assert rows == [4] * 7 + [2]
    assert max(most) <= 8


def layout(element):
    """What anndata wrote: kind, shape and attributes of everything inside."""
    found = {}

    def look(name, each):
        attributes = {key: np.asarray(value).tolist() for key, value in each.attrs.items()}
        kind = (each.shape, each.dtype) if isinstance(each, h5py.Dataset) else None
        found[name] = (kind, attributes)

    look("", element)
    element.visititems(look)
    return found


def test_tables_go_to_the_file_chunk_by_chunk_as_anndata_writes_them(
    source, out, model, wanted, tmp_path, monkeypatch
):
    written, write = [], ad.io.write_elem

    def watched(group, key, element, **options):
        written.append((key, len(element)))
        return write(group, key, element, **options)

    monkeypatch.setattr(ad.io, "write_elem", watched)
    annotated(source, out, model)
    assert [key for key, n in written if n > CHUNK] == ["obs"]
    with h5py.File(out, "r") as found, h5py.File(tmp_path / "wanted.h5", "w") as file:
        for key in ("p", "c2s_cell_type_top"):
            write(file, key, wanted.obsm[key])
            assert layout(found["obsm"][key]) == layout(file[key])


class TestCellsWithoutGenes:
    def emptied(self, few, rows):
        keep = np.ones(few.n_obs)
        keep[rows] = 0
        few.X = sp.csr_matrix(sp.diags(keep, dtype=few.X.dtype) @ few.X)
        return few

    def test_a_whole_chunk_of_them(self, few, tmp_path, out, model):
        rows = [2, *range(8, 16)]
        self.emptied(few, rows).write_h5ad(tmp_path / "in.h5ad")
        name = few.obs_names[2]
        with pytest.warns(
            C2SWarning, match=rf"9 of 30 cells express none .*first: '{name}'"
        ) as told:
            _, found = annotated(tmp_path / "in.h5ad", out, model)
        assert len(told) == 1
        np.testing.assert_array_equal(np.flatnonzero(found.obs["c2s_cell_type"].isna()), rows)
        with pytest.warns(C2SWarning, match="9 of 30"):
            c2s.tl.annotate(few, model, chunk_size=CHUNK, **OPTIONS)
        assert_same(found, few)

    def test_nothing_but_them(self, few, tmp_path, out, model):
        self.emptied(few, np.arange(30)).write_h5ad(tmp_path / "in.h5ad")
        with pytest.raises(InputError, match="no cell expresses any of the genes"):
            c2s.tl.embed_file(tmp_path / "in.h5ad", out, model)
        assert [path.name for path in tmp_path.iterdir()] == ["in.h5ad"]


class TestRefused:
    def test_keys_that_hold_something_else(self, source, out, model):
        with pytest.raises(UsageError, match=r"obs\['cell_type'\] exists already"):
            annotated(source, out, model, key_added="cell_type")
        with pytest.raises(UsageError, match=r"obsm\['X_other'\] exists already"):
            c2s.tl.embed_file(source, out, model, key_added="X_other")
        with pytest.raises(UsageError, match=r"obs\['h'\] would hold two results"):
            annotated(source, out, model, key_added="h")

    def test_files(self, source, tmp_path, model):
        with pytest.raises(UsageError, match=r"out\.zarr: must end in \.h5ad"):
            c2s.tl.embed_file(source, tmp_path / "out.zarr", model)
        with pytest.raises(UsageError, match="no does not exist"):
            c2s.tl.embed_file(source, tmp_path / "no" / "out.h5ad", model)
        (tmp_path / "in.csv").write_text("cell,INS\na,1\n")
        with pytest.raises(UsageError, match="an .h5ad file is expected; this is a text table"):
            c2s.tl.embed_file(tmp_path / "in.csv", tmp_path / "out.h5ad", model)

    def test_a_layer_that_is_not_there(self, source, out, model):
        with pytest.raises(UsageError, match="no layer 'counts'; it has X, other"):
            c2s.tl.embed_file(source, out, model, layer="counts")
        assert not out.with_name("out.h5ad.parts").exists()


def test_repeated_names_are_made_unique(few, tmp_path, out, model):
    few.obs_names = [*few.obs_names[:-1], few.obs_names[0]]
    few.write_h5ad(tmp_path / "in.h5ad")
    with pytest.warns(C2SWarning, match="1 cells repeat the name of another"):
        _, found = annotated(tmp_path / "in.h5ad", out, model)
    assert found.obs_names[-1] == f"{few.obs_names[0]}-1"


def test_parts_are_written_whole(source, out, model, monkeypatch):
    """A chunk whose writing fails leaves nothing."""

    def fails(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ad.io, "write_elem", fails)
    with pytest.raises(C2SError, match=r"rows-000000000000\.h5: no space left on the disk"):
        annotated(source, out, model)
    assert [path.name for path in out.parent.iterdir()] == ["in.h5ad"]
