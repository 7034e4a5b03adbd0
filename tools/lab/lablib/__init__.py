"""The lab: a whole Holdfast cluster on one machine. See tools/lab/README.md."""
