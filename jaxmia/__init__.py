"""jaxmia: could someone tell from the released model whether a given person was in the training data?

Names load when first used, so that importing jaxmia costs no more than importing what is used of it.
"""

import importlib
from typing import Any

_MODULE_OF = {
    "AttackResult": "evaluation",
    "CandidatePool": "features",
    "ExperimentConfig": "config",
    "FeatureSet": "features",
    "InputError": "_validate",
    "Hyperparams": "training",
    "MembershipMasks": "membership",
    "OperatingPoint": "evaluation",
    "PowerLawFit": "power_law",
    "PrivacyGuarantee": "accounting",
    "PrivacySpec": "accounting",
    "Roc": "evaluation",
    "Scores": "scores",
    "SweepConfig": "config",
    "ShadowEnsemble": "ensemble",
    "TrainConfig": "training",
    "AnalyticVulnerability": "analytic",
    "VulnerabilityCurve": "vulnerability",
    "accuracy": "scores",
    "analytic_vulnerability": "analytic",
    "attack_scores": "attack_run",
    "bootstrap_interval": "bootstrap",
    "calibrated_p_values": "evaluation",
    "call_members": "decisions",
    "candidate_pool": "features",
    "conformal_p_values": "decisions",
    "demo_features": "features",
    "dp_epsilon": "accounting",
    "draw_membership": "membership",
    "epsilon_lower_bound": "auditing",
    "extract_features": "extract",
    "feature_set": "features",
    "fit_laws": "laws",
    "fit_power_law": "power_law",
    "gradient_norms": "scores",
    "individual_mu": "accounting",
    "kairouz_ceiling": "tradeoff",
    "load_audit": "audit_config",
    "load_config": "config",
    "load_features": "features",
    "laws_elsewhere": "laws",
    "load_laws": "laws",
    "load_quantiles": "laws",
    "load_released": "released",
    "load_results": "store",
    "load_scores": "external",
    "load_sweep": "config",
    "median_epsilon_lower_bound": "auditing",
    "noise_multiplier_for": "accounting",
    "operating_points": "evaluation",
    "paired_scores": "counterfactual",
    "per_example_vulnerability": "vulnerability",
    "permuted_control": "controls",
    "positive_predictive_value": "decisions",
    "published_lines": "published",
    "read_limit": "_npz",
    "required_shots": "required",
    "roc": "evaluation",
    "run_audit": "audit",
    "run_experiment": "experiment",
    "run_sweep": "sweep",
    "save_features": "features",
    "score": "scores",
    "scores_from_arrays": "external",
    "tpr_at_fpr": "evaluation",
    "tpr_ceiling": "accounting",
    "train_ensemble": "ensemble",
    "triage_features": "triage",
    "white_box": "whitebox",
    "write_report": "report",
}
_MODULES = ("attacks",)

__all__ = [*_MODULE_OF, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"jaxmia.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'jaxmia' has no attribute {name!r}")
    # Not cached: `import jaxmia.evaluation` may bind the submodule to the name of the function in it.
    return getattr(importlib.import_module(f"jaxmia.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
