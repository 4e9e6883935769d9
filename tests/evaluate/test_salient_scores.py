"""Scores of saliency maps: those of another package, and of maps that need no computing."""

import numpy as np
import pytest

from esam_jax.evaluate import salient_scores

# Of PySODMetrics 1.6.2: MAE and S-measure of each case, and F of the mean curves of its Fmeasure.
CASES = [
    ((37, 53), 0.19320674725780165, 0.6952275044878371),
    ((24, 31), 0.17511068943706515, 0.7480601108395067),
    ((40, 20), 0.10925490196078431, 0.9033644846172444),
]
MAX_F, MEAN_F, S_MEASURE = 0.8762613914424391, 0.6425927212331751, 0.7822173666481961


def case(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An ellipse, and a noisy map of it that has 0 and 255."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    down = (y - height * rng.uniform(0.3, 0.7)) ** 2 / (height * 0.3) ** 2
    truth = down + (x - width * rng.uniform(0.3, 0.7)) ** 2 / (width * 0.25) ** 2 < 1
    found = truth * rng.uniform(0.4, 0.9) + rng.normal(0, 0.2, truth.shape)
    levels = np.rint(np.clip(found, 0, 1) * 255)
    levels.flat[0], levels.flat[1] = 0, 255
    return levels / 255, truth


def test_numbers_of_another_package():
    pictures = []
    for seed, (size, mae, s_measure) in enumerate(CASES):
        pictures.append(salient_scores.of_picture(*case(seed, *size)))
        assert pictures[-1]["mae"] == pytest.approx(mae, rel=1e-12)
        assert pictures[-1]["s_measure"] == pytest.approx(s_measure, rel=1e-12)
    found = salient_scores.summary(pictures)
    assert found["max_f"] == pytest.approx(MAX_F, rel=1e-12)
    assert found["mean_f"] == pytest.approx(MEAN_F, rel=1e-12)
    assert found["s_measure"] == pytest.approx(S_MEASURE, rel=1e-12)


def test_counts_at_each_level_are_those_of_a_loop():
    found, truth = case(5, 9, 11)
    scored = salient_scores.of_picture(found, truth)
    for level in (0, 1, 77, 128, 254, 255):
        inside = np.rint(found * 255) >= level
        assert scored["found"][level] == inside.sum()
        assert scored["hits"][level] == (inside & truth).sum()


def test_the_truth_itself_is_perfect_and_its_opposite_the_worst():
    _, truth = case(3, 20, 30)
    best = salient_scores.summary([salient_scores.of_picture(truth.astype(float), truth)])
    assert best["mae"] == 0 and best["max_f"] == pytest.approx(1)
    assert best["s_measure"] == pytest.approx(1)
    worst = salient_scores.summary([salient_scores.of_picture(1.0 - truth, truth)])
    assert worst["mae"] == 1 and worst["s_measure"] == 0
    assert worst["max_f"] < 0.5  # at level 0 everything is inside


def test_an_empty_map_finds_nothing_above_level_zero():
    _, truth = case(3, 20, 30)
    scored = salient_scores.of_picture(np.zeros(truth.shape), truth)
    precision, recall = salient_scores.curve(scored)
    assert recall[0] == 1 and precision[0] == pytest.approx(truth.mean())
    assert not recall[1:].any() and not precision[1:].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_pictures_of_few_pixels_have_finite_scores(size, value):
    truth = np.zeros(size, bool)
    truth[-1, -1] = True
    scored = salient_scores.of_picture(np.full(size, value), truth)
    assert 0 <= scored["s_measure"] <= 1 and 0 <= scored["mae"] <= 1
