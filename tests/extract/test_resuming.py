"""A killed extraction continues, with a network of a few lines: these tests need no package of the extra."""

import numpy as np
import pandas as pd
import pytest

from jaxmia import extract
from jaxmia._validate import InputError
from jaxmia.extract import backbones, extract_features
from jaxmia.extract.backbones import Backbone

ITEMS, BATCH = 40, 2  # blocks of eight batches: items 0 to 15, 16 to 31 and the rest
TEXTS = [f"{'x' * place} {place}" for place in range(ITEMS)]


@pytest.fixture
def extracted(tmp_path, monkeypatch):
    """Extract from a table of texts; the network stops after so many items."""
    table = pd.DataFrame({"text": TEXTS, "label": ["a", "b"] * (ITEMS // 2)})
    table.to_csv(tmp_path / "t.csv", index=False)

    def run(name, *, stop=None, batch_size=BATCH):
        seen = [0]

        def features(items):
            seen[0] += len(items)
            if stop is not None and seen[0] > stop:
                raise KeyboardInterrupt
            return np.array([[len(item), item.count("x")] for item in items], np.float32)

        network = Backbone({"name": "lengths"}, {}, (), str, features)
        monkeypatch.setattr(backbones, "check_installed", lambda *_: None)
        monkeypatch.setattr(extract, "load_backbone", lambda *_: network)
        return extract_features(
            tmp_path / "t.csv", "transformers:any", tmp_path / name, batch_size=batch_size
        )

    return run


def test_a_killed_extraction_ends_in_the_same_bytes(extracted, tmp_path):
    assert extracted("whole.npz").computed == ITEMS
    with pytest.raises(KeyboardInterrupt):
        extracted("killed.npz", stop=33)
    parts = tmp_path / "killed.npz.parts"
    blocks = ["items-0-16.npz", "items-16-32.npz"]
    assert sorted(path.name for path in parts.glob("items-*")) == blocks
    assert extracted("killed.npz").computed == ITEMS - 32
    assert not parts.exists()
    assert (tmp_path / "killed.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert extracted("killed.npz").computed == 0
    with np.load(tmp_path / "killed.npz") as arrays:
        np.testing.assert_array_equal(arrays["features"][:, 0], [len(text) for text in TEXTS])


def test_a_damaged_block_is_computed_again_and_another_extraction_is_named(extracted, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extracted("killed.npz", stop=33)
    parts = tmp_path / "killed.npz.parts"
    with pytest.raises(InputError, match=r"holds features of another extraction \(its batch_size differs\)"):
        extracted("killed.npz", batch_size=BATCH + 1)
    (parts / "items-0-16.npz").write_bytes((parts / "items-0-16.npz").read_bytes()[:100])
    assert extracted("killed.npz").computed == ITEMS - 16


def test_a_folder_of_other_files_is_left_without_a_lock(extracted, tmp_path):
    (tmp_path / "mine.npz.parts").mkdir()
    (tmp_path / "mine.npz.parts" / "thesis.tex").touch()
    with pytest.raises(InputError, match="must be empty or hold the parts of an extraction"):
        extracted("mine.npz")
    assert [path.name for path in (tmp_path / "mine.npz.parts").iterdir()] == ["thesis.tex"]
