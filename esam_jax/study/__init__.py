"""The paper's comparisons in miniature."""
