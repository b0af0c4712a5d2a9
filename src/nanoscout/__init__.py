"""nanoscout: train small language models to find answers with search and read tools."""

__version__ = "0.1.0"
