"""The matrix of a study: uplift by run and evaluated language, and contrasts between runs."""
