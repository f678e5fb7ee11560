"""Simulated kills for tests of run and sweep folders, and the contents that must be the same after them."""

import os

from jaxmia.studies.folder.states import TABLES


def stopped_after_each_write(monkeypatch, folder, run, *, every=1, most=40):
    """Yield new folders in which run(out) was stopped after 0, every, 2 every, ... writes, until a run ends by itself.

    Files are put in place by os.replace, so stopping between two calls is a kill between two writes.
    """
    replace = os.replace
    for survivors in range(0, most, every):
        out, count = folder / str(survivors), [0]

        def stop(source, target, count=count, survivors=survivors):
            if count[0] == survivors:
                raise KeyboardInterrupt
            count[0] += 1
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stop)
            try:
                run(out)
            except KeyboardInterrupt:
                pass
            else:
                assert survivors > 10  # any run has more writes than that
                return
        yield out
    raise AssertionError(f"the run has more than {most} writes")


def sweep_contents(path):
    """Bytes of all files in a sweep's folder that contain no times."""
    files = [path / "power_law.json", *(file for name in TABLES for file in (path / name).iterdir())]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}
