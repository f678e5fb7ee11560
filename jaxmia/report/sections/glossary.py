"""The report's words, explained for a reader who trains no models."""

from __future__ import annotations

from jaxmia.report.content import Section, Term, Terms

TERMS = (
    Term(
        "membership", "membership inference", "Telling whether a given record was in a model's training data."
    ),
    Term(
        "member",
        "member",
        "A record that the model was trained on. A non-member is one of the same kind that it was not trained on.",
        ("members", "non-member", "non-members"),
    ),
    Term(
        "fpr",
        "FPR",
        "False positive rate: of the records that were not in the training data, the share that the attacker wrongly"
        " calls members. 0.01 is one false alarm in a hundred.",
        ("false positive rate", "false positive rates", "false alarms", "false alarm"),
    ),
    Term(
        "tpr",
        "TPR",
        "True positive rate: of the records that were in the training data, the share that the attacker recognises. At"
        " chance it equals the FPR.",
        ("true positive rate", "TPRs"),
    ),
    Term(
        "realised",
        "realised FPR",
        "The false positive rate that was counted at a threshold, beside the one that the threshold was set for.",
        ("FPR realised", "realised"),
    ),
    Term(
        "shots",
        "S, examples per class",
        "How many training records each class has, on average. More of them make each one less exposed.",
        ("examples per class", "shots per class"),
    ),
    Term("classes", "C", "The number of classes that the model tells apart."),
    Term(
        "shadow",
        "shadow",
        "A model trained like the one under test on other parts of the same records, so that an attacker learns how"
        " outputs on members differ.",
        ("shadows", "shadow models"),
    ),
    Term(
        "retraining",
        "re-training",
        "One of the many shadows: a number over re-trainings says how often the record is recognised if the model were"
        " trained again with other records beside it.",
        ("re-trainings", "over re-trainings"),
    ),
    Term(
        "interval",
        "95% interval",
        "The range of values that are compatible with what was counted: such ranges hold the truth in 95 of 100"
        " repetitions.",
        ("95% intervals", "prediction interval"),
    ),
    Term(
        "unresolved",
        "unresolved",
        "Too few scores to measure a rate this small: an FPR f needs 10/f of them. No number is given, and its absence"
        " is no sign of safety.",
        ("not resolved",),
    ),
    Term(
        "extrapolated",
        "extrapolated",
        "A number beyond what was measured: it rests on an assumption that was not tested there.",
        ("extrapolation", "extrapolations"),
    ),
    Term(
        "roc",
        "ROC",
        "The curve of the true positive rate against the false positive rate, over all thresholds.",
    ),
    Term(
        "auc",
        "AUC",
        "The area under the ROC: the chance that a member scores higher than a non-member. 0.5 is guessing.",
    ),
    Term(
        "separation",
        "separation",
        "D: how far apart a record's scores lie with and without it in the training data, in standard deviations.",
    ),
    Term(
        "ppv",
        "positive predictive value",
        "Of the records that the attacker calls members, the share that are; it depends on the prior.",
        ("prior", "priors"),
    ),
    Term(
        "epsilon",
        "differential privacy",
        "A guarantee (ε, δ) of the training: whatever the attack, one record changes what it finds by no more than a"
        " factor e^ε, up to δ. Smaller is stronger.",
        ("ε",),
    ),
    Term(
        "ceiling",
        "ceiling",
        "The largest TPR that a guarantee leaves to any attack.",
        ("ceilings", "trade-off curve"),
    ),
    Term(
        "control",
        "negative control",
        "The same attack on membership that was shuffled: it must find nothing.",
        ("negative controls",),
    ),
    Term(
        "whitebox",
        "white-box attack",
        "An attack by someone who has the model's weights, not only its outputs.",
        ("white-box attacks", "white-box"),
    ),
)


def glossary() -> Section:
    """The words, each a place that the rest of the page links to."""
    return Section("glossary", "Glossary", (Terms(TERMS),), "evidence")
