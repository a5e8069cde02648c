"""The multigrid V-cycle: one function for solvers and networks, and the levels that it runs over."""
