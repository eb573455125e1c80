"""sltool: train one model on the data of many hospitals with spatio-temporal split learning."""

__version__ = "0.1.0"
