"""A package, so that `tests.support` is found before the `tests` of other packages, such as that of torch-fidelity."""
