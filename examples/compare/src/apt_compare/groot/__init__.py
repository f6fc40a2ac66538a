"""A tiny GR00T N1.7 for the tabletop, of lerobot's own classes: its words, its body and how its VLM is grounded."""
