"""Text encoders: training and service give the same tokens and vectors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from retrieval.bundle.catalogue.items import ItemTable
from retrieval.bundle.features.tokenizer import Tokenizer
from retrieval.bundle.layout import EVALUATION, ITEMS, VECTORS
from retrieval.store.folder_store import FolderStore
from tests.harness import query_tower_service
from tests.trainer.search_world import write_search_shop
from tests.trainer.text.checkpoints import VOCABULARY, bert, write_checkpoint
from tests.trainer.world import KERAS_AND_NUMPY, command
from trainer.errors import RunError
from trainer.model.embeddings import embed_queries
from trainer.recipe.feature_inputs import TextInput
from trainer.text import building
from trainer.text.distillation import weigh_by_idf
from trainer.text.encoders import KerasText
from trainer.text.layers import static_encoder, static_vectors
from trainer.training.saved_run import Run
from two_tower.query.v1 import query_tower_service_pb2 as pb

pytestmark = [
    pytest.mark.filterwarnings(KERAS_AND_NUMPY),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras_hub"),
]

TEXTS = [
    "wireless mouse", "Misérables, Les (1995)", "", " \t", "\x00\x07", "the " * 100, "שלום red cable", "bag 👜 bag",
    "[SEP] mouse", "日本",
]  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(building, "_frozen", {})


@dataclass(frozen=True)
class Trained:
    """The search shop, trained and published; its checkpoint is gone.

    Attributes:
        folder: folder with ``runs/mine`` and the store.
        store: store whose only bundle is live; to be copied before it is changed.
    """

    folder: Path
    store: FolderStore

    def run(self) -> Run:
        return Run.load(self.folder / "runs" / "mine")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Trains the search shop with keys of its text features, once each."""

    @cache
    def train(keys: str) -> Trained:
        folder = tmp_path_factory.mktemp("search")
        checkpoint, store = write_checkpoint(folder / "checkpoint"), FolderStore(folder / "store")
        recipe = write_search_shop(folder / "data", checkpoint, keys)
        command("train", recipe, "--store", store.root, "--run", folder / "runs" / "mine", "--promote")
        shutil.rmtree(checkpoint)
        return Trained(folder, store)

    return train


FROZEN = 'mode = "frozen"'
FINETUNED = 'mode = "finetune", learning_rate = 0.01, trained_layers = 1'


def encoder_of(checkpoint: Path, **keys: object) -> KerasText:
    feature = TextInput("title", "text", str(checkpoint), max_tokens=16, **keys)  # type: ignore[arg-type]
    return building.build([(feature, TEXTS)], {})[feature]


def test_an_encoder_is_the_checkpoint_with_mean_pooling(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint")
    ids = [VOCABULARY.index(word) for word in ("[CLS]", "wireless", "black", "mouse", "##s", "[SEP]")]
    found = encoder_of(folder).embed(["Wireless  black mouses", None])
    # KerasHub's GELU is the tanh approximation, the checkpoint's the exact one.
    np.testing.assert_allclose(found[0], bert(folder, ids), atol=5e-4)
    assert not found[1].any()


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_padding_changes_nothing(family: str, tmp_path: Path) -> None:
    encoder = encoder_of(write_checkpoint(tmp_path / "checkpoint", family))
    texts = ["mouse", "the wireless keyboard, black and white"]
    together = encoder.embed(texts)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-6)
    fresh = KerasText(encoder.spec, encoder.tokenizer, encoder.model)
    np.testing.assert_allclose(np.concatenate([fresh.embed([text]) for text in texts]), together, atol=1e-6)
    assert together[0] @ together[1] < 0.999


def test_a_tokenizer_takes_text_for_what_it_is(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint")
    tokenizer = Tokenizer((folder / "tokenizer.json").read_text(), 6)
    # [CLS] is 2, [SEP] 3, [UNK] 1; "the" 5, "mouse" 14; "[", "sep" and "]" are no words of this vocabulary.
    assert tokenizer.tokenize(["the mouse", "", None, " \t", "\x00", "[SEP]", "the " * 9, "👜"]) == [
        [2, 5, 14, 3], [], [], [], [], [2, 1, 1, 1, 3], [2, 5, 5, 5, 5, 3], [2, 1, 3],
    ]  # fmt: skip


def test_a_frozen_text_is_embedded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint")
    expected = encoder_of(folder).embed(TEXTS)
    monkeypatch.setattr(building, "_frozen", {})  # another process
    again = encoder_of(folder)
    monkeypatch.setattr(KerasText, "_embed", lambda *_: pytest.fail("a text was embedded again"))
    assert (again.embed([*reversed(TEXTS), *TEXTS]) == np.concatenate([expected[::-1], expected])).all()


def test_another_checkpoint_has_vectors_of_its_own(tmp_path: Path) -> None:
    first, second = (encoder_of(write_checkpoint(tmp_path / f"c{seed}", seed=seed)) for seed in (1, 2))
    assert np.abs(first.embed(["mouse"]) - second.embed(["mouse"])).max() > 0.01


@pytest.mark.parametrize(
    "keys",
    [
        FROZEN,
        FINETUNED,
        'mode = "distilled", width = 8',
        'mode = "distilled", width = 8, learning_rate = 0.01, token_weights = "idf"',
    ],
)
def test_a_service_embeds_texts_as_the_training_does(train: Callable[[str], Trained], keys: str) -> None:
    store, run = train(keys).store, train(keys).run()
    live = store.live()
    assert live is not None
    store.verify(live.version)
    expected = embed_queries(run.model.towers[0], run.model.schemas, {"query": TEXTS}, len(TEXTS))
    with query_tower_service(store) as running:
        running.wait_for_bundle(live.version)
        queries = [pb.Query(features={"query": pb.FeatureValues(strings=pb.StringList(values=[t]))}) for t in TEXTS]
        found = [list(e.values) for e in running.stub.EmbedQueries(pb.EmbedQueriesRequest(queries=queries)).embeddings]
        single = [running.stub.EmbedQueries(pb.EmbedQueriesRequest(queries=[q])).embeddings[0].values for q in queries]
        (feature,) = running.status().models[0].features
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(single, expected, atol=1e-4)
    assert (feature.name, feature.kind, feature.value_type) == ("query", pb.FEATURE_KIND_TEXT, pb.VALUE_TYPE_STRING)
    figures = json.loads((store.path(live.version) / EVALUATION).read_text())
    assert figures["text_top_10_agreement"] == 1.0
    assert min(encoder["min_cosine"] for encoder in figures["text_encoders"].values()) > 0.99999


def test_finetuning_changes_the_layers_that_it_names(train: Callable[[str], Trained], tmp_path: Path) -> None:
    (trained,) = train(FINETUNED).run().model.schemas.text_encoders.encoders
    start = encoder_of(write_checkpoint(tmp_path / "checkpoint"), mode="finetune", learning_rate=0.01, trained_layers=1)
    moved = {
        new.path.split("/", 1)[0]
        for new, old in zip(trained.model.weights, start.model.weights, strict=True)
        if np.abs(np.array(new) - np.array(old)).max() > 1e-6
    }
    assert moved == {"transformer_layer_1"}


def test_a_table_is_trained_as_its_encoder_computes() -> None:
    model = static_encoder(7, 3, 0, "table")
    ids = np.array([[2, 5, 5, 0], [0, 0, 0, 0], [6, 0, 0, 0], [1, 2, 3, 4]], dtype=np.int32)
    towards = tf.constant(np.arange(12, dtype=np.float32).reshape(4, 3))
    found = []
    for run in (lambda: static_vectors(model, tf.constant(ids), 0), lambda: model(ids)):
        with tf.GradientTape() as tape:
            vectors = run()
            loss = tf.reduce_sum(vectors * towards)
        gradient = tf.convert_to_tensor(tape.gradient(loss, model.trainable_variables)[0])
        found.append((vectors.numpy(), gradient.numpy()))
    assert not found[0][0][1].any()
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-4)


def test_rare_tokens_weigh_more_in_a_table() -> None:
    model = static_encoder(5, 2, 0, "table")
    model.layers[1].set_weights([np.array([[1, 0], [3, 4], [0, 2], [-1, 0], [0, 5]], np.float32)])
    # Of 4 texts, token 1 is in 4, token 2 in 2 (twice in the last one), token 3 in 1, tokens 0 and 4 in none.
    weigh_by_idf(model, [[1, 2], [1, 3], [1], [1, 2, 2]])
    # log(4 / 4) = 0, log(4 / 2) = 0.6931, log(4 / 1) = 1.3863, each in the direction that it had.
    expected = [[1.3863, 0], [0, 0], [0, 0.6931], [-1.3863, 0], [0, 1.3863]]
    np.testing.assert_allclose(model.layers[1].get_weights()[0], expected, atol=1e-4)


def test_new_items_are_embedded_by_the_bundle_alone(train: Callable[[str], Trained], tmp_path: Path) -> None:
    store = FolderStore(shutil.copytree(train(FROZEN).store.root, tmp_path / "store"))
    (tmp_path / "new.csv").write_text('product,title\nz1,"The new red bag, 4 (11)"\nz2,usb\n')
    command("add-items", "--store", store.root, "--items", tmp_path / "new.csv", "--promote")
    live = store.live()
    assert live is not None
    folder = store.path(live.version)
    items, vectors = ItemTable.read(folder / ITEMS, {"title": "string"}), np.load(folder / VECTORS)
    # p11 has the title of z1: 11 is red (11 mod 3 is 2), a bag (11 // 3 mod 4 is 3), and 11 mod 7 is 4.
    np.testing.assert_allclose(vectors[items.rows["z1"]], vectors[items.rows["p11"]], atol=1e-5)
    assert vectors[items.rows["z2"]] @ vectors[items.rows["p11"]] < 0.999


def test_one_recipe_answers_a_query_a_user_and_both(tmp_path: Path) -> None:
    recipe = write_search_shop(tmp_path / "data", write_checkpoint(tmp_path / "checkpoint"), FROZEN)
    history = '{ name = "history", kind = "history", max_values = 5 }'
    lines = recipe.read_text().replace("epochs = 2", "epochs = 15").splitlines()
    at = lines.index("[query_tower]") + 2
    lines[at] = lines[at].replace("features = [", f"features = [{history}, ")
    recipe.write_text("\n".join(lines) + "\n")
    command("train", recipe, "--run", tmp_path / "run")
    inputs = json.loads(command("evaluate", tmp_path / "run", "--json"))["inputs"]
    assert list(inputs) == ["all features", "text only", "all but the text", "history only", "all but the history",
                            "nothing"]  # fmt: skip
    assert inputs["text only"] == inputs["all but the history"]
    assert inputs["history only"] == inputs["all but the text"]
    # Of 24 products a query names the kind, mostly the colour too; the history tells which one is next.
    everything, text, history, nothing = (
        inputs[sent]["mrr"] for sent in ("all features", "text only", "history only", "nothing")
    )
    assert everything > text + 0.1 > nothing + 0.1
    assert everything >= history - 0.05 > nothing + 0.1


def test_graded_queries_measure_the_towers_beside_bm25(
    train: Callable[[str], Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(FROZEN).folder
    write_checkpoint(folder / "checkpoint")  # once more, for the frozen encoder beside the towers
    monkeypatch.chdir(folder)
    # p11 and p23 are the red bags: 11 and 23 are 2 modulo 3, and 11 // 3 and 23 // 3 are 3 modulo 4.
    (folder / "qrels.csv").write_text("query,docid,rating\nred bag,p11,3\nred bag,p23,3\nred bag,p00,0\nusb,p00,0\n")
    found = json.loads(command("evaluate", "--qrels", "qrels.csv", "--json"))
    assert found["run"] == "runs/mine"
    assert found["query_count"] == 1
    assert set(found["metrics"]) == {"two-tower", "two-tower + BM25", "BM25", "frozen encoder"}
    # Only these two titles hold both words: BM25 finds them first.
    assert found["metrics"]["BM25"]["ndcg@10"] == 1.0
    assert json.loads((folder / "runs/mine/search.json").read_text())["metrics"] == found["metrics"]
    with pytest.raises(RunError, match="evaluate needs --qrels"):
        command("evaluate", "runs/mine", "--queries", "qrels.csv")


def test_graded_queries_need_no_text_in_the_item_tower(tmp_path: Path) -> None:
    recipe = write_search_shop(tmp_path / "data", write_checkpoint(tmp_path / "checkpoint"), FROZEN)
    head, item_tower = recipe.read_text().split("[item_tower]")
    rest = item_tower[item_tower.index("[split]") :]
    features = 'features = [{ name = "item_id", kind = "categorical" }]\n\n[search]\nattributes = ["title"]\n\n'
    recipe.write_text(f"{head}[item_tower]\n{features}{rest}")
    command("train", recipe, "--run", tmp_path / "run")
    (tmp_path / "qrels.csv").write_text("query,docid,rating\nred bag,p11,3\n")
    found = json.loads(command("evaluate", tmp_path / "run", "--qrels", tmp_path / "qrels.csv", "--json"))
    assert set(found["metrics"]) == {"two-tower", "two-tower + BM25", "BM25"}
