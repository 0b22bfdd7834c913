"""The do-engine: plan, run, and the plain executor that everything is checked against."""
