"""Heads in the formats that users have: names, shapes and kinds of models."""

import warnings

import numpy as np
import pytest
import scipy.special

from jaxmia._validate import InputError
from jaxmia.audit.head_recipe import shadows_recipe
from jaxmia.audit.released import load_released
from jaxmia.audit.settings import AuditTrainSettings
from jaxmia.data.feature_set import feature_set

N, DIM = 40, 5


def records(classes, *, dim=DIM, names=None):
    rng = np.random.default_rng(0)
    labels = np.arange(N) % classes
    features = rng.normal(size=(N, dim)) + 2 * np.eye(classes, dim)[labels]
    return feature_set(features.astype(np.float32), labels, names)


def saved(folder, **tensors):
    np.savez(folder / "head.npz", **tensors)
    return folder / "head.npz"


def weights(classes, dim=DIM):
    rng = np.random.default_rng(1)
    return rng.normal(size=(classes, dim)), rng.normal(size=classes) + 3


def logits_of(data, weight, bias):
    return data.features.astype(float) @ weight.T + bias


@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1)])
def test_a_bias_of_any_usual_shape_is_read(tmp_path, shape):
    data, (weight, bias) = records(3), weights(3)
    read = load_released(saved(tmp_path, weight=weight, bias=bias.reshape(shape)), data)
    np.testing.assert_allclose(read.outputs, logits_of(data, weight, bias))
    assert read.notes == (f"Read: weight (3, 5) and bias {shape}.",)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("form", ["row", "column", "flat"])
def test_one_row_with_its_bias_is_the_logit_of_class_1(tmp_path, shape, form):
    data, (weight, bias) = records(2), weights(1)
    turned = {"row": weight, "column": weight.T, "flat": weight[0]}[form]
    read = load_released(saved(tmp_path, weight=turned, bias=bias.reshape(shape)), data)
    expected = logits_of(data, weight, bias)[:, 0]
    np.testing.assert_allclose(read.outputs[:, 1] - read.outputs[:, 0], expected)
    assert any("logit of class 1" in note for note in read.notes)


@pytest.mark.parametrize(
    ("names", "turned"),
    [
        (("coef_", "intercept_"), False),
        (("fc.weight", "fc.bias"), False),
        (("module.classifier.weight", "module.classifier.bias"), False),
        (("kernel", "bias"), True),
        (("dense/kernel:0", "dense/bias:0"), True),
        (("params.Dense_0.kernel", "params.Dense_0.bias"), True),
        (("W", "b"), True),
    ],
)
def test_names_of_every_framework_are_read_alike(tmp_path, names, turned):
    data, (weight, bias) = records(3), weights(3)
    tensors = dict(zip(names, (weight.T if turned else weight, bias), strict=True))
    read = load_released(saved(tmp_path, **tensors), data)
    np.testing.assert_allclose(read.outputs, logits_of(data, weight, bias))
    assert names[0] in read.notes[0]
    assert names[1] in read.notes[0]


def test_square_weights_are_turned_by_name_or_refused(tmp_path):
    data, (weight, bias) = records(3, dim=3), weights(3, 3)
    for name, turned in (("weight", weight), ("coef_", weight), ("kernel", weight.T)):
        own = {"coef_": "intercept_"}.get(name, "bias")
        read = load_released(saved(tmp_path, **{name: turned, own: bias}), data)
        np.testing.assert_allclose(read.outputs, logits_of(data, weight, bias))
        assert "[dim, classes]" in read.notes[1] or "by its name" in read.notes[1]
    with pytest.raises(InputError, match="does not show which axis holds the classes"):
        load_released(saved(tmp_path, W=weight, b=bias), data)


def test_bfloat16_and_named_tensors_of_safetensors(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    data, (weight, bias) = records(3), weights(3)
    tensors = {"out.weight": weight, "out.bias": bias, "in.weight": weights(7)[0], "in.bias": np.ones(7)}
    rounded = {name: values.astype(ml_dtypes.bfloat16) for name, values in tensors.items()}
    numpy.save_file(rounded, tmp_path / "head.SAFETENSORS")
    read = load_released(tmp_path / "head.SAFETENSORS", data, weight="out.weight")
    np.testing.assert_allclose(read.outputs, logits_of(data, weight, bias), atol=0.1)
    assert read.notes[-1] == "Left out: in.bias (7,), in.weight (7, 5)."


W3, B3 = weights(3)
W1, B1 = weights(1)


@pytest.mark.parametrize(
    ("classes", "tensors", "options", "message"),
    [
        # Never for its shape alone.
        (2, {"weight": W1, "scale": B1}, {}, r"weight \(1, 5\) would be read, and scale \(1,\) ignored"),
        (2, {"weight": W1, "scale": B1}, {"weight": "weight"}, "head.bias must name the bias, or be 'none'"),
        (3, {"weight": W3, "bias": B3, "temperature": np.ones(1)}, {}, r"temperature \(1,\) ignored"),
        (3, {"theta": W3}, {}, "named weight, kernel or coef_ with two axes, or head.weight must name it"),
        (3, {"norm.weight": np.ones(5), "norm.bias": np.ones(5)}, {}, "named weight, kernel or coef_"),
        (3, {"a.weight": W3, "b.weight": np.ones((9, 9))}, {}, r"last linear layer.*Of these a.weight fits"),
        (3, {"weight": W3, "bias": np.ones(5)}, {}, r"bias: bias.shape=\(5,\) must hold one number for each"),
        (3, {"weight": W3, "bias": B3[0]}, {}, r"bias.shape=\(\) must hold one number"),
        (3, {"weight": W3, "bias": np.arange(3)}, {}, "dtype='int64' must be a floating dtype"),
        (3, {"weight": W3.astype(np.int8)}, {"weight": "weight"}, "dtype='int8' must be a floating dtype"),
        (3, {"weight": W3, "logits": np.zeros((N, 3))}, {}, "weights or outputs, not both weight and logits"),
        (3, {"logits": np.zeros(N)}, {}, r"logits.shape=\(40,\) must be \(40, 3\)"),
        (2, {"logits": np.zeros(N, int)}, {}, "logits.dtype='int64'"),
        (3, {"weight": W3[:2], "bias": B3[:2]}, {}, r"weight.shape=\(2, 5\) must be \(3, 5\)"),
        (3, {"weight": W3, "bias": B3, "classes_": np.array(["x", "y", "z"])}, {}, "classes_=x, y, z"),
        (3, {}, {}, "it has nothing"),
    ],
)
def test_what_is_ambiguous_or_would_be_lost_is_refused(tmp_path, classes, tensors, options, message):
    with pytest.raises(InputError, match=message):
        load_released(saved(tmp_path, **tensors), records(classes), **options)


def test_what_is_meant_to_be_left_out_is_said(tmp_path):
    data = records(3)
    head = saved(tmp_path, weight=W3, scale=np.ones(1), logits=np.zeros((N, 3)), steps=np.int64(7))
    read = load_released(head, data, weight="weight", bias="none")
    np.testing.assert_allclose(read.outputs, logits_of(data, W3, np.zeros(3)))
    assert read.notes[-1] == "Left out: scale (1,), logits (40, 3), steps () of int64."


@pytest.mark.parametrize("axes", [(N,), (N, 1)])
def test_one_output_for_each_record_is_of_class_1(tmp_path, axes):
    data, z = records(2, names=["no", "yes"]), np.random.default_rng(0).normal(size=N)
    logits = load_released(saved(tmp_path, logits=z.reshape(axes)), data)
    np.testing.assert_array_equal(logits.outputs, np.stack([np.zeros(N), z], axis=1))
    shares = load_released(saved(tmp_path, probabilities=scipy.special.expit(z).reshape(axes)), data)
    found = shares.scores(data.labels, np.arange(N) < 20).scores.log_odds[0]
    np.testing.assert_allclose(found, np.where(data.labels == 1, z, -z), rtol=1e-9)
    assert "class 1 (yes)" in shares.notes[1]


def test_classes_beside_weights_order_their_rows(tmp_path):
    data = records(3, names=["10", "20", "30"])
    shuffled = [2, 0, 1]
    classes = np.array([30.0, 10.0, 20.0])
    head = saved(tmp_path, coef_=W3[shuffled], intercept_=B3[shuffled], classes_=classes)
    np.testing.assert_allclose(load_released(head, data).outputs, logits_of(data, W3, B3))
    two = records(2, names=["1", "2"])
    read = load_released(saved(tmp_path, weight=W1, bias=B1, classes_=np.array([2, 1])), two)
    np.testing.assert_allclose(read.outputs[:, 0] - read.outputs[:, 1], logits_of(two, W1, B1)[:, 0])


# scikit-learn


@pytest.fixture
def fitted(tmp_path):
    """Fit a model on the records' features (with its own labels), save it and read it."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    io = pytest.importorskip("skops.io", reason="skops is not installed")

    def read(model, data, labels=None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(data.features.astype(float), data.labels if labels is None else labels)
        io.dump(model, tmp_path / "head.skops")
        return load_released(tmp_path / "head.skops", data)

    return read


def assert_probabilities(read, model, data, order=slice(None), atol=1e-5):
    expected = model.predict_proba(data.features.astype(float))[:, order]
    found = scipy.special.softmax(read.outputs, axis=1) if read.kind == "logits" else read.outputs
    np.testing.assert_allclose(found, expected, atol=atol)


@pytest.mark.parametrize("classes", [2, 3])
def test_softmax_heads_of_scikit_learn_say_what_scikit_learn_says(fitted, classes):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.naive_bayes import MultinomialNB

    data = records(classes)
    positive = feature_set(np.abs(data.features), data.labels)
    heads = [LogisticRegression(), LinearDiscriminantAnalysis()]
    if classes == 2:
        heads += [SGDClassifier(loss="log_loss"), LogisticRegression(solver="liblinear")]
    for model in heads:
        assert_probabilities(fitted(model, data), model, data)
    naive = MultinomialNB()
    assert_probabilities(fitted(naive, positive), naive, positive)


def test_what_is_no_softmax_is_refused_by_name(fitted):
    from sklearn.linear_model import Perceptron, RidgeClassifier, SGDClassifier
    from sklearn.neighbors import NearestCentroid
    from sklearn.svm import SVC, LinearSVC

    data = records(3)
    for model in (
        SVC(kernel="linear"),
        LinearSVC(),
        RidgeClassifier(),
        Perceptron(),
        NearestCentroid(),
    ):
        with pytest.raises(
            InputError, match=f"model={type(model).__name__} must be a classifier with probabilities"
        ):
            fitted(model, data)
    with pytest.raises(InputError, match=r"SGDClassifier\(loss='hinge'\) must have loss='log_loss'"):
        fitted(SGDClassifier(), data)


def test_a_calibrated_head_is_read_by_its_probabilities(fitted):
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import LinearSVC

    data = records(3)
    model = CalibratedClassifierCV(LinearSVC(), cv=2)
    read = fitted(model, data)
    assert (read.kind, read.weight) == ("probabilities", None)
    assert_probabilities(read, model, data)
    assert "shadows are plain softmax heads" in read.warnings[0]
    assert "calibration on held-out parts" in read.unknown_recipe


@pytest.mark.parametrize("classes", [2, 3])
def test_one_against_the_rest_is_read_by_its_own_link(fitted, classes):
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import LinearSVC

    data = records(classes)
    model = OneVsRestClassifier(LogisticRegression(C=0.5, class_weight="balanced"))
    read = fitted(model, data)
    assert_probabilities(read, model, data)
    link = {} if classes == 2 else {"link": "one_vs_rest"}
    assert read.recipe == {"optimizer": "newton", "ridge": 2.0, "class_weight": "balanced"} | link
    if classes == 3:
        assert read.weight is None
        assert "one sigmoid per class" in read.notes[0]
        stochastic = SGDClassifier(loss="log_loss")
        assert_probabilities(fitted(stochastic, data), stochastic, data)
    with pytest.raises(InputError, match="OneVsRestClassifier must wrap LogisticRegression"):
        fitted(OneVsRestClassifier(LinearSVC()), data)


@pytest.mark.parametrize(
    "scaler", ["StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler", "Normalizer"]
)
def test_the_scaler_of_a_pipeline_transforms_the_features(fitted, scaler):
    import sklearn.preprocessing
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    data = records(3)
    model = make_pipeline(getattr(sklearn.preprocessing, scaler)(), "passthrough", LogisticRegression())
    read = fitted(model, data)
    assert_probabilities(read, model, data)
    np.testing.assert_allclose(
        read.features, model[:-1].transform(data.features.astype(float)), rtol=1e-5, atol=1e-6
    )
    assert scaler in read.notes[0]
    np.testing.assert_allclose(
        read.outputs, logits_of(data.replace(features=read.features), read.weight, read.bias)
    )


def test_projections_and_pipelines_in_pipelines_change_the_dimension(fitted):
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = records(2)
    for project in (PCA(2), TruncatedSVD(2)):
        model = make_pipeline(make_pipeline(StandardScaler(), project), LogisticRegression())
        read = fitted(model, data)
        assert_probabilities(read, model, data)
        assert read.features.shape == (N, 2)
        assert read.num_parameters == 3  # one row of weights, and its bias


def test_features_that_are_not_the_models_are_refused(fitted, tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data, wide = records(3), records(3, dim=7)
    for model, message in (
        (
            make_pipeline(StandardScaler(), LogisticRegression()),
            r"StandardScaler raised.*pipe\[:-1\].transform",
        ),
        (LogisticRegression(), r"features.shape\[1\]=7 must be 5"),
    ):
        fitted(model, data)
        with pytest.raises(InputError, match=message):
            load_released(tmp_path / "head.skops", wide)


def test_the_best_of_a_search_is_read(fitted):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = records(2)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    for model in (
        GridSearchCV(LogisticRegression(), {"C": [0.25]}, cv=2),
        GridSearchCV(pipeline, {"logisticregression__C": [0.25]}, cv=2),
        make_pipeline(StandardScaler(), GridSearchCV(LogisticRegression(), {"C": [0.25]}, cv=2)),
        FixedThresholdClassifier(LogisticRegression(C=0.25)),
    ):
        read = fitted(model, data)
        assert_probabilities(read, model, data)
        assert read.recipe["ridge"] == 4.0
        assert any("estimator_" in note for note in read.notes)


@pytest.mark.parametrize(
    ("names", "as_labels"),
    [
        (None, lambda y: y.astype(float)),
        (None, lambda y: y.astype(str)),
        (["3", "7", "5"], lambda y: np.array([3, 7, 5])[y]),
        (["b", "a", "c"], lambda y: np.array(["b", "a", "c"])[y]),
        (["b", "a", "c"], lambda y: y),
    ],
)
def test_classes_are_matched_by_value(fitted, names, as_labels):
    from sklearn.linear_model import LogisticRegression

    data = records(3, names=names)
    labels = as_labels(data.labels)
    weights = None if labels.dtype.kind == "U" else {labels[1]: 5.0}
    model = LogisticRegression(class_weight=weights)
    read = fitted(model, data, labels)
    assert (read.predictions() == data.labels).mean() > 0.8
    order = [model.classes_.tolist().index(labels[c]) for c in range(3)]
    assert_probabilities(read, model, data, order)
    assert read.recipe.get("class_weight") == (weights and [1.0, 5.0, 1.0])


def test_two_classes_in_another_order_turn_the_row(fitted):
    from sklearn.linear_model import LogisticRegression

    data = records(2, names=["yes", "no"])
    model = LogisticRegression()
    read = fitted(model, data, np.array(["yes", "no"])[data.labels])
    assert_probabilities(read, model, data, [1, 0])
    assert "reordered to the records' order" in read.notes[1]


def test_foreign_and_ambiguous_classes_are_refused(fitted):
    from sklearn.linear_model import LogisticRegression

    for names, labels, message in (
        (["1", "0"], [0, 1], "may be the labels' numbers or the class_names"),
        (["a", "b"], ["a", "c"], "classes_=a, c of the head must be the classes of the features, a, b"),
    ):
        data = records(2, names=names)
        with pytest.raises(InputError, match=message):
            fitted(LogisticRegression(), data, np.array(labels)[data.labels])


def test_no_pickle_and_no_foreign_types(fitted, tmp_path):
    import skops.io
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    data = records(2)
    with pytest.raises(
        InputError, match=r"known to be safe, got test_released.skops_transform.*search.best_estimator_"
    ):
        fitted(make_pipeline(FunctionTransformer(skops_transform), LogisticRegression()), data)
    (tmp_path / "head.skops").write_bytes(b"no zip")
    with pytest.raises(InputError, match="must be a readable"):
        load_released(tmp_path / "head.skops", data)
    skops.io.dump(LogisticRegression(), tmp_path / "head.skops")
    with pytest.raises(InputError, match="must be fitted"):
        load_released(tmp_path / "head.skops", data)
    with pytest.raises(InputError, match=r"head.weight='w' must be left out"):
        load_released(tmp_path / "head.skops", data, weight="w")


def skops_transform(features):
    return features


# Recipes

MATCH = AuditTrainSettings(match=True)


def test_the_files_recipe_is_the_shadows_unless_another_is_given(fitted):
    from sklearn.linear_model import LogisticRegression

    data = records(2)
    for model, recipe in (
        (LogisticRegression(C=0.5), {"ridge": 2.0}),
        (LogisticRegression(class_weight="balanced"), {"ridge": 1.0, "class_weight": "balanced"}),
        (LogisticRegression(class_weight={0: 2.0}), {"ridge": 1.0, "class_weight": (2.0, 1.0)}),
        (LogisticRegression(fit_intercept=False), {"ridge": 1.0, "intercept": False}),
    ):
        read = fitted(model, data)
        train, source, said = shadows_recipe(MATCH, read)
        assert train == AuditTrainSettings.model_validate({"optimizer": "newton"} | recipe)
        assert (source, said) == ("file", ())
        assert shadows_recipe(train, read) == (train, "given", ())
        _, source, said = shadows_recipe(AuditTrainSettings(optimizer="newton", ridge=1.5), read)
        assert source == "given"
        assert f"trained with ridge = {recipe['ridge']:g}" in said[0]
        assert "[train] says ridge = 1.5" in said[0]
        for name in recipe:
            assert name in said[0]


def test_recipes_that_shadows_cannot_have_are_said_and_fitted(fitted):
    import sklearn
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier

    if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8):
        pytest.skip("before scikit-learn 1.8 l1_ratio alone sets no L1 part")
    data = records(2)
    for model, why in (
        (LogisticRegression(l1_ratio=1, solver="liblinear"), "L1"),
        (LogisticRegression(l1_ratio=0.5, solver="saga"), "L1"),
        (LogisticRegression(C=np.inf, max_iter=20), "no penalty"),
        (SGDClassifier(loss="log_loss", class_weight="balanced", fit_intercept=False), "SGDClassifier stops"),
    ):
        read = fitted(model, data)
        train, source, said = shadows_recipe(MATCH, read)
        assert (train.match, source) == (True, "fitted")
        assert why in said[0]
        assert (train.class_weight, train.intercept) == (model.class_weight or "none", model.fit_intercept)
    chosen = fitted(
        LogisticRegressionCV(
            Cs=[0.25], cv=2, use_legacy_attributes=False, l1_ratios=(0,), scoring="accuracy"
        ),
        data,
    )
    assert shadows_recipe(MATCH, chosen)[0].ridge == 4.0
    assert "C was chosen on the head's members" in chosen.warnings[0]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_search_for_c_as_it_comes_tells_its_recipe(fitted, classes):
    """Without l1_ratios its l1_ratio_ is None for every class; chosen as 0 it has no L1 part."""
    from sklearn.linear_model import LogisticRegressionCV

    data = records(classes)
    for more in ({}, {"penalty": "elasticnet", "solver": "saga", "l1_ratios": (0.0,), "max_iter": 2000}):
        read = fitted(LogisticRegressionCV(Cs=[0.25], cv=2, **more), data)
        assert (read.recipe["ridge"], read.unknown_recipe) == (4.0, "")
        assert "C was chosen" in read.warnings[0]


@pytest.mark.parametrize("name", ["predict_proba", "proba", "probs", "predict_log_proba", "log_probs"])
@pytest.mark.parametrize("classes", [2, 3])
def test_outputs_go_by_their_usual_names(tmp_path, name, classes):
    data, rng = records(classes), np.random.default_rng(0)
    odds = rng.normal(size=(len(data.labels), classes))
    values = scipy.special.softmax(odds, axis=1)
    values = np.log(values) if "log" in name else values
    np.savez(tmp_path / "head.npz", **{name: values})
    read = load_released(tmp_path / "head.npz", data)
    assert f"Read: {name} {values.shape} as " in read.notes[1]
    member = np.arange(len(data.labels)) % 2 == 0
    np.savez(tmp_path / "logits.npz", logits=odds)
    expected = load_released(tmp_path / "logits.npz", data).scores(data.labels, member).scores.log_odds
    np.testing.assert_allclose(
        read.scores(data.labels, member).scores.log_odds, expected, rtol=1e-5, atol=1e-6
    )
    # One column of two is a probability, but no logit.
    np.savez(tmp_path / "head.npz", **{name: values[:, 1]})
    if classes == 2 and "log" not in name:
        np.testing.assert_allclose(load_released(tmp_path / "head.npz", data).outputs, values)
    else:
        with pytest.raises(InputError, match=f"{name}.shape=.* must be"):
            load_released(tmp_path / "head.npz", data)


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("head.pt", "safetensors.torch.save_file"),
        ("head.PKL", "skops.io.dump"),
        ("head.npy", "np.savez"),
        ("head.keras", "np.savez"),
    ],
)
def test_heads_of_other_formats_are_refused_with_what_to_type(tmp_path, name, typed):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        InputError, match=f"must end in one of .safetensors, .npz, .skops: save it by {typed}"
    ):
        load_released(tmp_path / name, records(2))


def test_what_was_found_is_said_with_dtypes_that_no_weight_has(tmp_path):
    np.savez(tmp_path / "head.npz", weight=np.ones((2, 5), int), bias=np.zeros(2))
    with pytest.raises(
        InputError, match=r"of floats named weight.* it has weight \(2, 5\) of int64, bias \(2,\)"
    ):
        load_released(tmp_path / "head.npz", records(2))


def test_steps_before_a_head_may_choose_and_fill_in(fitted):
    from sklearn.feature_selection import SelectKBest, chi2, f_classif, mutual_info_classif
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler

    data = records(3)
    for chosen_by in (f_classif, chi2, mutual_info_classif):
        steps = (SimpleImputer(), MinMaxScaler(), SelectKBest(chosen_by, k=3))
        model = make_pipeline(*steps, LogisticRegression())
        read = fitted(model, data)
        assert_probabilities(read, model, data)
        assert "SimpleImputer, MinMaxScaler, SelectKBest" in read.notes[0]


def test_what_a_recipe_leaves_unsaid_is_said(fitted):
    from sklearn.linear_model import LogisticRegression

    data = records(2)
    assert "penalises the intercept" in fitted(LogisticRegression(solver="liblinear"), data).warnings[0]
    assert "stopped at max_iter = 2" in fitted(LogisticRegression(max_iter=2), data).warnings[0]
