"""The power law between vulnerability and examples per class: fits, published fits and required data set sizes.

The package needs only NumPy, pandas and statsmodels, so the table of results may come from other code.
"""
