"""What stands before every request beside its key: which hosts and pages may send it, how often, how slowly, and how deep its JSON goes."""
