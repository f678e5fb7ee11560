"""The power law between vulnerability and examples per class: fitted, published, and what it asks of a data set.

NumPy, pandas and statsmodels only: the table of results may be anyone's.
"""
