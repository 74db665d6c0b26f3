"""Classifiers: trained here, wrapped, or converted exactly from scikit-learn."""
