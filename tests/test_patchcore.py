"""PatchCore: nothing but speed and memory differs from anomalib's."""

import pytest
import timm
import torch
from anomalib.models import Patchcore
from test_coreset import plain_loop
from torch.nn import functional
from torchvision.transforms.v2.functional import normalize, resize

from helpers.data.datamodule import SampleDataModule
from helpers.inference.train import make_trainer
from helpers.models.backbones import resolve_backbone
from helpers.models.catalog import build_model
from helpers.models.patchcore import PatchCore, PatchCoreModel, patch_features, project_features


def fit(model: PatchCore, table, *, seed: int = 0) -> PatchCore:
    data = SampleDataModule(table, train_batch_size=3, eval_batch_size=3, seed=seed)
    trainer = make_trainer(model, "cpu", [], limit_val_batches=0)
    trainer.fit(model, datamodule=data)
    return model.eval()


def outputs(model: Patchcore, n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and maps of photos that were not trained on."""
    with torch.no_grad():
        found = model.eval().model(torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(9)))
    return found.pred_score.flatten(), found.anomaly_map


@pytest.fixture(scope="module")
def trained(make_model, table) -> PatchCore:
    """Fitted on 5 photos of 64 x 64 with the default layers (48 + 192 channels)."""
    return fit(make_model(), table)


# ---------------------------------------------------------------------------------------------------------- training


def test_bank_is_the_plain_loop_of_features_worked_out_with_timm(make_model, table, backbone_folder):
    """layer1 and layer2 have 80 dimensions, fewer than a projection would have: distances are those of the features."""
    model = fit(make_model(layers=("layer1", "layer2"), coreset_sampling_ratio=0.05), table)
    options = {"pretrained": True, "features_only": True, "out_indices": (1, 2)}
    network, rows = timm.create_model(f"local-dir:{backbone_folder}", **options).eval(), []
    for batch in SampleDataModule(table, train_batch_size=3).train_dataloader():
        photos = normalize(resize(batch.image, [64, 64], antialias=True), [0.5] * 3, [0.5] * 3)
        with torch.no_grad():
            shallow, deep = (functional.avg_pool2d(layer, 3, 1, 1) for layer in network(photos))
        deep = functional.interpolate(deep, size=shallow.shape[-2:], mode="bilinear")
        rows.append(torch.cat([shallow, deep], 1).permute(0, 2, 3, 1).flatten(0, 2))
    features = torch.cat(rows)
    assert features.shape == (5 * 16 * 16, 32 + 48)
    expected = features[plain_loop(features, 64)]  # 5 % of 1,280
    torch.testing.assert_close(model.model.memory_bank, expected, rtol=1e-4, atol=1e-5)


def test_features_are_held_once_and_as_many_as_predicted(make_model, table, monkeypatch):
    model, seen, select = make_model(), [], PatchCoreModel.subsample_embedding
    rows = patch_features(model.model, torch.zeros(1, 3, 64, 64))

    def spy(self, ratio: float) -> None:
        seen.extend([tuple(self.embedding_store.rows.shape), self.embedding_store.rows.untyped_storage().nbytes()])
        select(self, ratio)

    monkeypatch.setattr(PatchCoreModel, "subsample_embedding", spy)
    fit(model, table)
    assert seen == [(5 * 8 * 8, 240), 5 * rows.nbytes] and not model.model.embedding_store


# --------------------------------------------------------------------------------------------------------- inference


@pytest.mark.parametrize("n_photos", [1, 20])
def test_scores_and_maps_are_those_of_anomalib(trained, backbone_folder, n_photos):
    """20 photos have 1,280 patches: more than one chunk of anomalib's search."""
    theirs = Patchcore(f"local-dir:{backbone_folder}", ["layer2", "layer3"], num_neighbors=9)
    theirs.model.memory_bank = trained.model.memory_bank.clone()
    (scores, maps), (their_scores, their_maps) = outputs(trained, n_photos), outputs(theirs, n_photos)
    assert maps.shape == (n_photos, 1, 64, 64)
    torch.testing.assert_close(scores, their_scores, rtol=1e-4, atol=0)
    torch.testing.assert_close(maps, their_maps, rtol=1e-4, atol=1e-6)


# --------------------------------------------------------------------------------------------------- building models


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"no_such_parameter": 1}, "no_such_parameter"),
        ({"center_crop": 65}, "center_crop"),
        ({"image_size": 0}, "size"),
        ({"image_size": (64, 64, 3)}, "size"),
        ({"image_size": 64.5}, "size|float"),
        ({"name": "patchcoer"}, "'patchcoer'; known: patchcore"),
    ],
)
def test_parameters_out_of_range_are_named(backbone_folder, parameters, named):
    backbone = resolve_backbone(f"local-dir:{backbone_folder}")
    with pytest.raises((ValueError, TypeError), match=named):
        build_model(**{"name": "patchcore", "backbone": backbone, "image_size": 64, **parameters})


def test_projection_keeps_distances_on_average_and_is_left_out_where_it_lowers_nothing():
    # 300 points, eps 0.9: 4 ln(300) / (0.9^2 / 2 - 0.9^3 / 3) = 140 dimensions
    features = torch.randn(300, 600, generator=torch.Generator().manual_seed(0))
    narrow = features[:, :140]
    assert project_features(narrow) is narrow and len(project_features(features[:1])[0]) == 600
    state = torch.get_rng_state()
    projected = project_features(features)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(project_features(features), projected)
    assert projected.shape == (300, 140) and projected.dtype == features.dtype
    pairs = torch.triu_indices(300, 300, offset=1)
    before, after = (torch.cdist(each, each)[pairs[0], pairs[1]].square() for each in (features, projected))
    assert float((after / before).mean()) == pytest.approx(1, abs=0.05)
    assert float((after / before).min()) > 0.1 and float((after / before).max()) < 1.9
