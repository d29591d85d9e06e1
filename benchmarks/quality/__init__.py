"""Parts of the quality benchmark: tables, closed-form densities, models, and the table of results."""
