"""An embedding feature-store and batch-inference engine for histopathology slides."""

__version__ = "0.1.0"
