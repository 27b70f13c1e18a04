"""How good the pictures are: Fréchet and kernel distances, precision and recall, and how well pictures fit their captions."""
