"""The release advisor: the effect of each lever on accuracy and vulnerability, and the best option within a limit."""
