"""Private heads for release: trained once, on all members, with noise that is fit for release."""
