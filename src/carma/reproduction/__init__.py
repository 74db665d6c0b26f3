"""The paper's tables and figures, run anew and put beside the published numbers."""
