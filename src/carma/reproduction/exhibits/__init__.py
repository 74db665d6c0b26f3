"""The paper's tables and figures, one module for each question they answer."""
